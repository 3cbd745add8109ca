"""What can be said about placeholders without a text encoder."""

import pytest
from dreamo_routed.dreamo_core.sequence.reference import ReferenceConditioning
from dreamo_routed.dreamo_core.text.placeholders import (
    PLACEHOLDERS,
    PlaceholderPositions,
    check_against_references,
    check_spelling,
    mentions_placeholder,
    note_on_unnamed,
    positions_from,
    shift_in_model,
)


def test_names_are_in_the_order_of_the_trained_rows():
    assert PLACEHOLDERS == tuple(
        "[ref#1] [ref#2] [ref#3] [ref#4] [ref#5] [ref#6] [ref#7] [ref#8] [ref#9] [res]".split()
    )


@pytest.mark.parametrize(
    "prompt",
    [
        *PLACEHOLDERS,
        "",
        "a woman from [ref#1] and a dog from [ref#2][ref#3] in the park",
        "([ref#1]:1.2) ((dog)) \\(not a weight\\) [res]",
        "［ref＃1］ full-width, as T5's tokenizer reads it",
        r"text on a sign: \[ref#1\], \[ref # 10\], \[res\]",
        "[reflection] [referee] [rest] [result] [reference] [ref. 3] ref#1 #ref [cat]",
        "the reference [1]",
        "[refined",
    ],
)
def test_right_spelling_and_plain_text_pass(prompt):
    check_spelling(prompt)


@pytest.mark.parametrize(
    ("given", "offered"),
    [
        ("[ref # 1]", "write [ref#1]"),
        ("[ref#1 ]", "write [ref#1]"),
        ("[ ref#2]", "write [ref#2]"),
        ("[ref#\n3]", "write [ref#3]"),
        ("[ref 4]", "write [ref#4]"),
        ("[ref5]", "write [ref#5]"),
        ("[Ref#6]", "write [ref#6]"),
        ("[REFERENCE#7]", "write [ref#7]"),
        ("[ref#08]", "write [ref#8]"),
        ("［ref＃ ９］", "write [ref#9]"),
        ("[ref#1:1.2]", "write [ref#1]"),
        ("[ref#1 and a dog", "closing bracket is missing, write [ref#1]"),
        ("[ref#0]", "numbered [ref#1] to [ref#9]"),
        ("[ref#10]", "numbered [ref#1] to [ref#9]"),
        ("[ref#-1]", "numbered [ref#1] to [ref#9]"),
        ("[ref#" + "9" * 5000 + "]", "numbered [ref#1] to [ref#9]"),
        ("[ref]", "write one of [ref#1] to [ref#9]"),
        ("a cat from [ref", "closing bracket is missing, write one of [ref#1] to [ref#9]"),
        ("from [res  \nand more", "closing bracket is missing, write [res]"),
        (r"from [ref\#1]", r"write [ref#1] (prompt nodes in which # begins a comment take it as \#"),
        ("[ref#]", "write one of [ref#1] to [ref#9]"),
        ("[ref#one]", "write one of [ref#1] to [ref#9]"),
        ("[RES]", "write [res]"),
        ("[ res ]", "write [res]"),
        (r"\[ref#1]", r"write [ref#1] for the placeholder or \[ref#1\] for plain text"),
        (r"[res\]", r"write [res] for the placeholder or \[res\] for plain text"),
    ],
)
def test_misspelt_placeholders_are_refused_and_the_right_one_is_offered(given, offered):
    with pytest.raises(ValueError) as error:
        check_spelling(f"a cat and [ref#1], then {given}")
    assert offered in str(error.value)
    assert "In the prompt" in str(error.value)


def test_every_misspelling_offers_a_text_spelling_that_passes():
    for given in ("[ref # 1]", "[ref#10]", "[RES]", "[ref#1 and", "[ ref#2]"):
        with pytest.raises(ValueError) as error:
            check_spelling(given)
        check_spelling(str(error.value).split("write ")[-1].rstrip("."))


def test_mentions():
    assert mentions_placeholder("x[res]") and mentions_placeholder("［ref＃1］")
    assert not mentions_placeholder(r"\[ref#1\] [cat]")


def test_a_placeholder_needs_its_reference():
    check_against_references(["[ref#1]", "[ref#2]", "[res]"], 2)
    check_against_references([], 0)
    with pytest.raises(ValueError, match=r"names \[ref#2\] and \[ref#4\] but the DreamO chain has only reference 1;"):
        check_against_references(["[ref#4]", "[ref#1]", "[ref#2]"], 1)
    with pytest.raises(ValueError, match="chain has no reference;"):
        check_against_references(["[ref#1]"], 0)
    with pytest.raises(ValueError, match="only references 1 to 8"):
        check_against_references(["[ref#9]"], 8)


def test_a_reference_without_placeholder_is_noted():
    assert note_on_unnamed(["[ref#1]", "[ref#2]"], 2) == ""
    assert "[ref#2], [ref#3]." in note_on_unnamed(["[ref#1]", "[res]"], 3)
    assert "[res]" not in note_on_unnamed([], 9)


def test_positions_are_collected_by_name():
    positions = positions_from([("[ref#2]", 1), ("[ref#1]", 4), ("[ref#2]", 9)])
    assert positions.names == ("[ref#2]", "[ref#1]")
    assert positions.of("[ref#2]") == (1, 9)
    assert positions.of("[ref#3]") == ()


def test_positions_move_by_what_is_prepended_in_the_model():
    assert shift_in_model(256, 256) == 0
    # A style model appended 20 tokens to the conditioning: the model call was given them, nothing moves.
    assert shift_in_model(276, 276) == 0
    assert shift_in_model(256, 269) == 13
    with pytest.raises(ValueError, match="200 text tokens but its conditioning has 256"):
        shift_in_model(256, 200)


def test_conditionings_with_other_positions_are_not_batched_together():
    one = PlaceholderPositions((("[ref#1]", (4,)),))
    other = PlaceholderPositions((("[ref#1]", (5,)),))
    assert ReferenceConditioning((), None, one) == ReferenceConditioning((), None, PlaceholderPositions(one.tokens))
    assert ReferenceConditioning((), None, one) != ReferenceConditioning((), None, other)
    assert ReferenceConditioning((), None, one) != ReferenceConditioning((), None)
