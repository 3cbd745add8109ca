"""The DreamO method (arXiv 2504.16915) in torch. No file outside `host/` imports ComfyUI.

The paper, section by section, and the function or class that is it:

    3.1  references follow the image in one sequence      `sequence.tokens.ReferenceSequence`
         their positions go on along the diagonal         `sequence.positions.diagonal_offsets`
         condition embedding: task and index rows         `sequence.embeddings.Embeddings.rows_for`
         flow matching, Eq. 1                              `training.flow.interpolate`, `training.flow.velocity`
    3.2  response map of a reference, Eq. 2               `attention.response.response_maps`
         routing loss, Eq. 3                              `training.losses.routing_errors`
    3.3  placeholders: tokens and rows                    `text.placeholders.PLACEHOLDERS`
         placeholder loss, Eq. 4                          `training.losses.placeholder_errors`
         all losses, Eq. 5                                `training.losses.weighted_sum`
         progressive training, stage by stage             `training.engine.train`
         reference tokens dropped in the quality stage    `sequence.pruning.random_keep`

Routing while sampling, after RealCustom++ (arXiv 2408.09744):

         self-attention refines a map, Eq. 14             `routing.masks.smooth`
         top γ with max normalisation, Eq. 15             `routing.masks.top_gamma`, `routing.masks.max_norm`
         several subjects without overlap, Algorithm 1    `routing.masks.assign`
         read, decide and bias in one model call          `routing.router.Router`

RealCustom++ itself, on SDXL:

         cross-layer cross-scale projector, Eq. 9         `realcustom.projector.Projector`
         self-attention refines a word's map, Eq. 14      `realcustom.masks.self_refined`
         ⌊γ n⌋ largest and max normalisation, Eq. 15      `realcustom.masks.select`, `routing.masks.max_norm`
         text and picture, each its softmax, Eq. 16, 19   `realcustom.adding.generation_attention`
         several subjects by rounds, Algorithm 1          `realcustom.masks.assign`
         guidance branch and generation branch            `realcustom.guidance.make_calc_cond_batch_wrapper`

Ours:

         a bias of rank n on the keys of n references     `attention.bias.low_rank_attention`
         strength of a reference                          `attention.strength.Strength`
         keys and values kept from step to step           `reuse.cache.Reuse`, `reuse.policy.ReusePolicy`
         the same as constants of the pictures            `reuse.constant.ConstantStore`
         the pass that makes them                         `sampling.constant.ReferencePass`
         background tokens left out                       `sequence.pruning.kept_tokens`
         tokens left out that nobody looks at             `attention.looks.Looks`
         detail of a reference, and curves of strength    `attention.detail.Detail`, `attention.curve.CURVES`
         what a family of models does its own way         `sampling.families.family.Family`
         the model call that puts all of it together      `sampling.apply_model.make_apply_model_wrapper`

The rooms, top to bottom; a room imports from those below it (`pyproject.toml` has the rule, the tests check it):

    host/                    the one adapter; nodes/ and minidreamo/host/ alone import it
    sampling/  training/     the model call; the paper's training
    realcustom/              RealCustom++ on UNets
    routing/   checkpoint/   maps, masks, regions, router; files and LoRA
    reuse/     sequence/     policy, cache, store, cost; section 3.1
    attention/ text/         bias, layout, hooks, response maps; section 3.3
    run/       pictures/     state of a run; what the model sees (the only room with OpenCV)
    vision/                  the vision transformer and its files
    flux.py    files.py      names and sizes of FLUX.1; files that are there whole or not at all
    graphs/                  graphs of the official pack on this pack's nodes
"""
