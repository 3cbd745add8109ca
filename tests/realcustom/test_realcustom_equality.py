"""RealCustom against its slow twin: float64, explicit softmax, no patches of the host."""

import pytest
import realcustom_world as rw
import torch
from dreamo_routed.dreamo_core.host.clip_words import word_positions
from dreamo_routed.dreamo_core.realcustom.settings import SOURCES, RealCustomSettings

SUBJECTS = [rw.subject(("cat",), seed=0, gamma=0.2), rw.subject(("teapot",), seed=1, gamma=0.15, strength=0.8)]


@pytest.mark.parametrize(
    ("count", "source", "cfg", "size"),
    [
        (1, "released", 7.5, (1, 16, 24)),
        (1, "paper", 7.5, (2, 16, 16)),
        (1, "released", 1.0, (2, 24, 16)),
        (2, "released", 7.5, (2, 16, 24)),
        (2, "paper", 7.5, (1, 16, 24)),
        (2, "paper", 1.0, (1, 16, 16)),
    ],
)
def test_equal_to_the_slow_twin(count, source, cfg, size):
    at, subjects = rw.world(), SUBJECTS[:count]
    batch, height, width = size
    empty = rw.latent(height, width, batch)
    model, positive, negative = rw.attach(subjects, settings=RealCustomSettings(source=SOURCES[source]))
    found = rw.sample(model, positive, negative, empty, cfg)
    words = [word_positions(at.clip, rw.PROMPT, subject.words[0]) for subject in subjects]
    expected = rw.slow_sample(at, subjects, words, source, cfg, empty)
    plain = rw.sample(at.model, at.encode(rw.PROMPT), at.encode(rw.NEGATIVE), empty, cfg)
    assert rw.relative(found, expected) < 1e-5
    assert rw.relative(found, plain) > 1e-3


def test_sd15_by_the_same_code():
    at, subjects = rw.world("sd15"), SUBJECTS[:1]
    empty = rw.latent(16, 16)
    model, positive, negative = rw.attach(subjects, at, settings=RealCustomSettings(source=SOURCES["paper"]))
    found = rw.sample(model, positive, negative, empty)
    expected = rw.slow_sample(at, subjects, [word_positions(at.clip, rw.PROMPT, "cat")], "paper", 7.5, empty)
    assert rw.relative(found, expected) < 1e-5


def test_strength_0_and_no_subject_change_nothing():
    at = rw.world()
    plain = rw.sample(at.model, at.encode(rw.PROMPT), at.encode(rw.NEGATIVE))
    for subjects in ([], [rw.subject(strength=0.0)]):
        assert torch.equal(rw.sample(*rw.attach(subjects)), plain)
    patched, *_ = rw.attach(SUBJECTS)
    assert torch.equal(rw.sample(patched, at.encode(rw.PROMPT), at.encode(rw.NEGATIVE)), plain)
    # And after a run with subjects.
    rw.sample(*rw.attach(SUBJECTS))
    assert torch.equal(rw.sample(at.model, at.encode(rw.PROMPT), at.encode(rw.NEGATIVE)), plain)


def test_a_subject_of_strength_0_is_as_if_it_were_not_there():
    alone = rw.sample(*rw.attach(SUBJECTS[:1]))
    assert torch.equal(rw.sample(*rw.attach([SUBJECTS[0], rw.subject(("teapot",), 1, strength=0.0)])), alone)


def test_keys_and_values_computed_again_give_the_same():
    kept = rw.sample(*rw.attach(SUBJECTS))
    again = rw.sample(*rw.attach(SUBJECTS, settings=RealCustomSettings(low_memory=True)))
    assert torch.equal(kept, again)
