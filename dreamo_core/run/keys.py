"""The names under which the pack's data rides in the host's dicts; no two alike, and none that another pack uses.

On a conditioning's `model_conds` (they arrive as keywords of `apply_model`):
"""

CONDITIONING_KEY = "dreamo_references"
"""A `sequence.reference.ReferenceConditioning`."""
ROUTING_CONDITIONING_KEY = "dreamo_routing_conditioning"
"""A `routing.regions.RoutingConditioning`: regions and words."""

PLACEHOLDERS_KEY = "dreamo_placeholders"
"""In a conditioning's own dict: its `text.placeholders.PlaceholderPositions`."""

PROMPT_TOKENS_KEY = "dreamo_prompt_tokens"
"""In a conditioning's own dict: the T5 tokens it was encoded from, by `host.text_encoder.token_names`."""

RUN_KEY = "dreamo_run"
"""In `transformer_options`, while a run lasts: its `run.Run`."""
ROUTING_KEY = "dreamo_routing"
"""In a model's `transformer_options`: its `routing.settings.RoutingSettings`."""
RECORDER_KEY = "dreamo_routing_recorder"
"""In a model's `transformer_options`: the `routing.record.Recorder` that maps are copied to."""
POLICY_KEY = "dreamo_reuse_policy"
"""In a model's `transformer_options`: its `reuse.policy.ReusePolicy`."""
STORE_KEY = "dreamo_constant_store"
"""In a model's `transformer_options`: its `reuse.constant.ConstantStore`."""

WRAPPER_KEY = "dreamo_routed"
"""Of our wrappers on a model ("dreamo" is the original pack's)."""

REALCUSTOM_KEY = "realcustom_subjects"
"""On a conditioning's `model_conds`: a `realcustom.subject.RealCustomConditioning`."""
REALCUSTOM_CALL_KEY = "realcustom_call"
"""In `transformer_options`, for the length of one evaluation: its `realcustom.guidance.Call`."""
