"""Every shape of a row, what it comes to, and what it cannot be."""

import itertools

import pytest

from posweep.data.formats import FORMATS, Dropped, Labelled, Malformed, couple, layout
from posweep.errors import DataError
from posweep.records import Message, PreferencePair


def read(row: dict, **columns):
    return layout(list(row), columns, "data", "FILE").read(row)


def said(*contents: str) -> list[dict]:
    """Messages, the two sides in turn."""
    sides = itertools.cycle(("user", "assistant"))
    return [{"role": role, "content": content} for role, content in zip(sides, contents, strict=False)]


def answer(content: str) -> list[dict]:
    """The assistant's message alone."""
    return [{"role": "assistant", "content": content}]


def turns(*contents: str) -> tuple[Message, ...]:
    return tuple(Message(**one) for one in said(*contents))


SYSTEM = {"role": "system", "content": "Be brief."}
HH = "\n\nHuman: What is a fig?\n\nAssistant: A fruit.\n\nHuman: And an elm?\n\nAssistant: "
TLDR = "SUBREDDIT: r/pets\n\nTITLE: My cat\n\nPOST: It sleeps.\n\nTL;DR:"
OF_TWO = {"prompt": "q", "response_0": "zero", "response_1": "one"}
PKU = {
    "prompt": "How do I pick a lock?", "response_0": "Take a pin.", "response_1": "I had better not say.",
    "prompt_source": "Alpaca3-8B", "response_0_source": "Alpaca3-8B", "response_1_source": "Alpaca2-7B",
    "is_response_0_safe": False, "is_response_1_safe": True, "better_response_id": 0, "safer_response_id": 1,
}  # fmt: skip
ULTRAFEEDBACK = {
    "prompt": "Name a tree.", "prompt_id": "c0ffee", "chosen": said("Name a tree.", "An elm."),
    "rejected": said("Name a tree.", "A cod."), "messages": said("Name a tree.", "An elm."),
    "score_chosen": 8.5, "score_rejected": 2.0,
}  # fmt: skip


def pair(prompt="q", chosen="good", rejected="bad") -> PreferencePair:
    return PreferencePair(prompt, chosen, rejected)


PAIRS = {
    "text": ({"prompt": "q", "chosen": "good", "rejected": "bad", "source": 3}, pair()),
    "TL;DR": (
        {"prompt": TLDR, "chosen": " My cat sleeps.", "rejected": " I have a cat."},
        pair(TLDR, " My cat sleeps.", " I have a cat."),
    ),
    "UltraFeedback": (ULTRAFEEDBACK, pair("Name a tree.", "An elm.", "A cod.")),
    "messages after a prompt of messages": (
        {"prompt": said("a", "b", "c"), "chosen": answer("good"), "rejected": answer("bad")}, pair(turns("a", "b", "c")),
    ),
    "messages after a prompt of text": (
        {"prompt": "q", "chosen": answer("good"), "rejected": answer("bad")}, pair(),
    ),
    "messages that go on after a prompt": (
        {"prompt": "a", "chosen": said("a", "b", "c", "good")[1:], "rejected": said("a", "b", "c", "bad")[1:]},
        pair(turns("a", "b", "c")),
    ),
    "a lone question in a list is text": (
        {"prompt": said("q"), "chosen": answer("good"), "rejected": "bad"}, pair(),
    ),
    "a system message stays": (
        {"prompt": [SYSTEM, *said("q")], "chosen": "good", "rejected": "bad"},
        pair((Message(**SYSTEM), *turns("q"))),
    ),
    "a conversation that holds its prompt of messages": (
        {"prompt": said("a", "b", "c"), "chosen": said("a", "b", "c", "good"), "rejected": said("a", "b", "c", "bad")},
        pair(turns("a", "b", "c")),
    ),
    "a conversation that holds its prompt and what stands before": (
        {"prompt": "q", "chosen": [SYSTEM, *said("q", "good")], "rejected": [SYSTEM, *said("q", "bad")]},
        pair((Message(**SYSTEM), *turns("q"))),
    ),
    "messages that older data sets hold as a mapping of lists": (
        {"chosen": {"role": ["user", "assistant"], "content": ["q", "good"]}, "rejected": said("q", "bad")}, pair(),
    ),
    "HH-RLHF": (
        {"chosen": HH + "A tree.", "rejected": HH + "A fish."},
        pair(turns("What is a fig?", "A fruit.", "And an elm?"), "A tree.", "A fish."),
    ),
    "HH-RLHF of one turn is a question": (
        {"chosen": "\n\nHuman: q\n\nAssistant: two\n\nparagraphs", "rejected": "\n\nHuman: q\n\nAssistant:bad"},
        pair("q", "two\n\nparagraphs", "bad"),
    ),
    "HH-RLHF whose first line was stripped": (
        {"chosen": "Human: q\n\nAssistant: good", "rejected": "Human: q\n\nAssistant: bad"}, pair(),
    ),
    "a prompt in the text of HH-RLHF": (
        {"prompt": HH, "chosen": "A tree.", "rejected": "A fish."},
        pair(turns("What is a fig?", "A fruit.", "And an elm?"), "A tree.", "A fish."),
    ),
    "conversations that share a prefix": (
        {"chosen": said("a", "b", "c", "good"), "rejected": said("a", "b", "c", "bad")}, pair(turns("a", "b", "c")),
    ),
    "other names of the roles": (
        {"chosen": [{"role": "human", "content": "q"}, {"role": "gpt", "content": "good"}], "rejected": said("q", "bad")},
        pair(),
    ),
    "one message in place of a list": (
        {"prompt": said("q")[0], "chosen": answer("good")[0], "rejected": answer("bad")[0]}, pair(),
    ),
    "one message in place of a list, of two": (
        {"prompt": "q", "response_0": answer("bad")[0], "response_1": answer("good")[0], "preference": 1}, pair(),
    ),
    "content in parts": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "?"}]}],
         "chosen": {"role": "assistant", "content": [{"type": "text", "text": "good"}]}, "rejected": "bad"},
        pair("q?"),
    ),
    "ShareGPT": (
        {"prompt": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "q"}],
         "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
        pair((Message(**SYSTEM), *turns("q"))),
    ),
    "ShareGPT as a mapping of lists": (
        {"chosen": {"from": ["human", "gpt"], "value": ["q", "good"]}, "rejected": said("q", "bad")}, pair(),
    ),
    "the second of two": ({**OF_TWO, "preference": 1}, pair("q", "one", "zero")),
    "two answers of messages": (
        {"prompt": "q", "response_0": answer("good"), "response_1": answer("bad"),
         "preference": "response_0"},
        pair(),
    ),
}  # fmt: skip


TEXT = {"prompt": "q", "chosen": "good", "rejected": "bad"}
BRIEF = Message(**SYSTEM)
IN_CONTEXT = {
    "a system turn": ({**TEXT, "system": "Be brief."}, {"system": "system"}, (BRIEF, *turns("q"))),
    "an empty system cell": ({**TEXT, "system": " "}, {"system": "system"}, "q"),
    "a system cell that is null": ({**TEXT, "system": None}, {"system": "system"}, "q"),
    "the same system turn twice": ({**TEXT, "prompt": [SYSTEM, *said("q")], "s": "Be brief."}, {"system": "s"},
                                   (BRIEF, *turns("q"))),
    "Alpaca's input": ({**TEXT, "input": "1, 2"}, {"input": "input"}, "q\n\n1, 2"),
    "an instruction without input": ({**TEXT, "input": ""}, {"input": "input"}, "q"),
    "both": ({**TEXT, "a": "Be brief.", "b": "1"}, {"system": "a", "input": "b"}, (BRIEF, *turns("q\n\n1"))),
    "behind the last question": ({**TEXT, "prompt": said("a", "b", "c"), "input": "1"}, {"input": "input"},
                                 turns("a", "b", "c\n\n1")),
    "neither is read unasked": ({**TEXT, "system": "Be brief.", "input": "1"}, {}, "q"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "columns", "prompt"), IN_CONTEXT.values(), ids=IN_CONTEXT)
def test_what_stands_around_a_prompt_in_columns_of_its_own(row, columns, prompt):
    assert read(row, **columns) == pair(prompt)


def test_a_label_has_its_context_too():
    row = {"prompt": "q", "response": "a", "label": True, "system": "Be brief."}
    assert read(row, system="system") == Labelled((BRIEF, *turns("q")), "a", True)


def test_two_system_turns_contradict_each_other():
    with pytest.raises(Malformed, match="has a system turn in its prompt and another in its system column"):
        read(
            {**TEXT, "prompt": [{"role": "system", "content": "Be long."}, *said("q")], "system": "x"}, system="system"
        )
    with pytest.raises(Malformed, match="system must be text, got 3"):
        read({**TEXT, "system": 3}, system="system")


def test_which_columns_are_not_used():
    found = layout([*TEXT, "system", "source", "__index_level_0__"], {"system": "system"}, "data", "FILE")
    assert found.unused([*TEXT, "system", "source", "__index_level_0__"]) == ("source",)
    assert layout([*TEXT, "label"], {"label": None}, "data", "FILE").unused([*TEXT, "label"]) == ()


@pytest.mark.parametrize(("row", "expected"), PAIRS.values(), ids=PAIRS)
def test_a_row_becomes_a_pair(row, expected):
    assert read(row) == expected


@pytest.mark.parametrize("preference", [0, False, 0.0, "0", "response_0"])
def test_which_of_two_is_preferred_is_said_in_many_ways(preference):
    assert read({**OF_TWO, "preference": preference}) == pair("q", "zero", "one")


def test_columns_of_other_names():
    row = {"question": "q", "yes": "good", "no": "bad", "prompt": "another thing", "chosen": "another"}
    assert read(row, prompt="question", chosen="yes", rejected="no") == pair()
    assert read({"prompt": 3, "chosen": said("q", "good"), "rejected": said("q", "bad")}, prompt=None) == pair()


def test_a_preference_may_name_the_data_sets_own_column():
    row = {"prompt": "q", "left": "good", "right": "bad", "winner": "left"}
    assert read(row, response_0="left", response_1="right", preference="winner") == pair()


@pytest.mark.parametrize(
    ("column", "chosen"), [("better_response_id", "Take a pin."), ("safer_response_id", "I had better not say.")]
)
def test_pku_saferlhf_says_two_things_and_one_is_taken(column, chosen):
    assert read(PKU, preference=column).chosen == chosen


@pytest.mark.parametrize(("columns", "plus"), [({}, "+"), ({"preference": None}, "")])
def test_pku_saferlhf_is_refused_until_one_is_named(columns, plus):
    with pytest.raises(DataError) as caught:
        read(PKU, **columns)
    assert caught.value.problems == (
        "data.columns.preference: must name the column that says which response is preferred, one of better_response_id, "
        f"safer_response_id; add {plus}data.columns.preference=better_response_id.",
    )


REASONS = {
    "no text": ({"prompt": "q", "chosen": " \n", "rejected": "bad"}, "empty response"),
    "null": ({"prompt": "q", "chosen": "good", "rejected": None}, "empty response"),
    "an empty last turn": ({"chosen": HH, "rejected": HH + "A fish."}, "empty response"),
    "a message of null": (
        {"prompt": "q", "chosen": [{"role": "assistant", "content": None}], "rejected": "bad"}, "empty response",
    ),
    "equal but for space": ({"prompt": "q", "chosen": "same", "rejected": " same\n"}, "chosen equals rejected"),
    "another beginning": (
        {"chosen": said("a", "b", "c", "good"), "rejected": said("a", "x", "c", "bad")},
        "transcripts differ before the last answer",
    ),
    "one longer than the other": (
        {"chosen": HH + "A tree.", "rejected": HH + "A fish.\n\nHuman: Sure?\n\nAssistant: Yes."},
        "transcripts differ before the last answer",
    ),
    "the user has the last word": (
        {"chosen": said("q", "a", "thanks"), "rejected": said("q", "bad")}, "the last turn is not the assistant's",
    ),
    "no turns": ({"chosen": [], "rejected": said("q", "bad")}, "the last turn is not the assistant's"),
    "the assistant begins": (
        {"chosen": answer("good"), "rejected": answer("bad")},
        "the prompt does not end with words of the user",
    ),
    "the prompt ends with the assistant": (
        {"prompt": said("q", "a"), "chosen": "good", "rejected": "bad"}, "the prompt does not end with words of the user",
    ),
    "no prompt": ({"prompt": " ", "chosen": "good", "rejected": "bad"}, "the prompt does not end with words of the user"),
    "another prompt than the conversation": (
        {"prompt": "p", "chosen": said("q", "good"), "rejected": said("q", "bad")},
        "the conversation does not hold the prompt",
    ),
    "another prompt of messages": (
        {"prompt": [SYSTEM, *said("q")], "chosen": said("q", "good"), "rejected": said("q", "bad")},
        "the conversation does not hold the prompt",
    ),
    **{f"preference {tie}": ({**OF_TWO, "preference": tie}, "no preference between the two")
       for tie in (None, -1, "tie", float("nan"))},
    "no label": ({"prompt": "q", "response": "x", "label": None}, "no label"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), REASONS.values(), ids=REASONS)
def test_a_row_without_a_preference_is_dropped_for_a_reason(row, reason):
    with pytest.raises(Dropped) as caught:
        read(row)
    assert str(caught.value) == reason


MALFORMED = {
    "a number for a prompt": ({"prompt": 3, "chosen": "good", "rejected": "bad"}, "prompt must be text or a list of mess"),
    "a number for a response": ({"prompt": "q", "chosen": 3, "rejected": "bad"}, "chosen must be text or a list of mess"),
    "a list of texts": ({"prompt": "q", "chosen": ["x"], "rejected": "bad"}, r"chosen must be a list of messages .*'x'\.$"),
    "half a character": ({"prompt": "q", "chosen": "\ud800", "rejected": "b"}, "chosen must be text that can be written"),
    "an unknown role": (
        {"chosen": [{"role": "tool", "content": "x"}], "rejected": []}, "the role of a message must be user, .*'tool'",
    ),
    "content in parts": (
        {"chosen": [{"role": "user", "content": [{"text": "x"}]}], "rejected": []}, "the parts of a message must be",
    ),
    "text without turns": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."}, "chosen must be a transcript of turns 'Human: …'",
    ),
    "no preference of two": ({**OF_TWO, "preference": 2}, "preference must be 0 or 1, or the name .*, got 2"),
    "a preference in words": ({**OF_TWO, "preference": "first"}, "preference must be 0 or 1, or .*, got 'first'"),
    "a list for a preference": ({**OF_TWO, "preference": [0]}, r"preference must be 0 or 1, or .*, got \[0\]"),
    "a label of 2": ({"prompt": "q", "response": "x", "label": 2}, "label must be true or false, or 1 or 0, got 2"),
    "a label in words": ({"prompt": "q", "response": "x", "label": "good"}, "label must be .*, got 'good'"),
}  # fmt: skip


@pytest.mark.parametrize(("row", "pattern"), MALFORMED.values(), ids=MALFORMED)
def test_a_row_of_other_types_is_a_mistake(row, pattern):
    with pytest.raises(Malformed, match=pattern) as caught:
        read(row)
    assert str(caught.value).endswith(".")


def test_a_row_that_lacks_a_column_is_a_mistake():
    with pytest.raises(Malformed, match=r"^must have question, chosen, rejected; it has chosen, b\.$"):
        layout(["question", "chosen", "rejected"], {"prompt": "question"}, "data", "FILE").read(
            {"chosen": "a", "b": "c"}
        )


@pytest.mark.parametrize(
    ("found", "columns", "said"),
    [
        (["text"], {}, "FILE: has the columns text, but preferences need prompt, chosen, rejected · chosen,"),
        ([], {}, "FILE: has the columns none, but preferences need"),
        (["prompt", "chosen"], {}, "FILE: has the columns prompt, chosen, but preferences need"),
        (["prompt", "chosen", "rejected"], {"chosen": "best"}, "data.columns: FILE has no column best (chosen); it has"),
        (["prompt", "chosen", "rejected"], {"winner": "chosen"}, "data.columns.winner: no such column in any format; there"),
        (["prompt", "response_0", "response_1", "votes"], {}, "data.columns.preference: must name the column that says"),
    ],
)  # fmt: skip
def test_columns_that_are_of_no_format(found, columns, said):
    with pytest.raises(DataError) as caught:
        layout(found, columns, "data", "FILE")
    (problem,) = caught.value.problems
    assert problem.startswith(said)
    assert problem.endswith(".")


def test_the_richest_format_that_fits_is_taken():
    every = [column for one in FORMATS for column in one.columns]
    assert layout(every, {}, "data", "FILE").format.columns == ("prompt", "chosen", "rejected")
    assert layout(every, {"prompt": None}, "data", "FILE").format.columns == ("chosen", "rejected")
    assert layout(every, {"chosen": None}, "data", "FILE").format.columns[-1] == "preference"
    assert (
        layout(every, {"chosen": None, "preference": None, "response_0": None}, "data", "FILE").format.columns[-1]
        == "label"
    )


# --- labels


@pytest.mark.parametrize("column", ["response", "completion"])
@pytest.mark.parametrize(("label", "desirable"), [(True, True), (1, True), (0, False), (0.0, False)])
def test_a_labelled_response(column, label, desirable):
    assert read({"prompt": "q", column: "x", "label": label}) == Labelled("q", "x", desirable)


def test_a_labelled_answer_of_messages():
    row = {"prompt": said("a", "b", "c"), "completion": answer("x"), "label": True}
    assert read(row) == Labelled(turns("a", "b", "c"), "x", True)


def test_responses_to_one_prompt_make_ordinary_pairs():
    labelled = [
        Labelled("p", "a", True),
        Labelled("q", "x", False),
        Labelled("p", "b", False),
        Labelled("q", "y", True),
    ]
    pairs, counts = couple(labelled, 0)
    assert pairs == [pair("p", "a", "b"), pair("q", "y", "x")]
    assert not counts


def test_the_rest_is_coupled_across_prompts_and_the_surplus_counted():
    labelled = [Labelled(f"d{i}", f"good {i}", True) for i in range(30)]
    labelled += [Labelled(f"u{i}", f"bad {i}", False) for i in range(20)]
    pairs, counts = couple(labelled, 0)
    assert counts == {"left out: desirable": 10}
    assert len(pairs) == 20
    assert all(one.prompt[1:] == one.chosen[5:] and one.rejected_prompt[1:] == one.rejected[4:] for one in pairs)
    assert {one.rejected for one in pairs} == {f"bad {i}" for i in range(20)}
    assert pairs == couple(labelled, 0)[0]
    assert pairs != couple(labelled, 1)[0]


def test_a_prompt_with_a_surplus_is_never_coupled_with_itself():
    labelled = [Labelled("p", f"g{i}", True) for i in range(3)] + [Labelled("p", "b", False), Labelled("q", "c", False)]
    pairs, counts = couple(labelled, 0)
    assert [(one.prompt, one.rejected_prompt) for one in pairs] == [("p", None), ("p", "q")]
    assert counts == {"left out: desirable": 1}


def test_one_response_with_both_labels_is_no_pair():
    pairs, counts = couple([Labelled("p", "same", True), Labelled("p", " same", False)], 0)
    assert (pairs, counts) == ([], {"dropped: chosen equals rejected": 1})
