"""Chat templates: where a policy's prompt ends, and what stands between it and an answer."""

import pytest

from posweep.policy.template import judge_problems, notices, open_thought, policy_problems, thought_problems

from .families import CHATML, LLAMA3, PHI3, make_tokenizer

BODY = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
THINKS = BODY + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
SWITCHED = BODY + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{% endif %}{% endif %}"
)
EMPTY_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}</s>{% endif %}"
    "{% endfor %}"
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def tokenizer(template):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    return make_tokenizer(special, None, "<|im_end|>", template, "<|endoftext|>")


def said(template, **kwargs):
    return policy_problems(tokenizer(template), "M", kwargs, "model")


@pytest.mark.parametrize("template", [CHATML, LLAMA3, PHI3, MISTRAL, EMPTY_THOUGHT, HARMONY])
def test_a_template_whose_prompt_ends_where_an_answer_begins(template):
    assert said(template) == []
    assert judge_problems(tokenizer(template), "M", "judge.rm") == []


def test_a_prompt_that_opens_a_thought_is_refused():
    [found] = said(THINKS)
    assert found == (
        "model.prompt_format: the chat template of M opens a thought (<think>) where an answer begins, so that responses "
        "would be scored inside it; mend a copy's chat template, or set model.prompt_format=transcript."
    )


def test_a_template_that_can_be_told_to_close_the_thought():
    [found] = said(SWITCHED)
    assert "set +model.template_kwargs.enable_thinking=false, mend" in found
    assert said(SWITCHED, enable_thinking=False) == []


def test_what_a_template_does_not_read_is_refused():
    [found] = said(SWITCHED, enable_think=False)
    assert found == (
        "model.template_kwargs.enable_think: the chat template of M reads no enable_think; it reads enable_thinking."
    )


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("<think>\n", "<think>"), ("<think>\n\n</think>\n\n", ""), ("</think>", ""), ("[THINK]", "[THINK]"),
        ("[THINK]x[/THINK]", ""), ("<reasoning>", "<reasoning>"), ("<seed:think>", "<seed:think>"), ("◁think▷", "◁think▷"),
        ("<|channel|>analysis<|message|>", "<|channel|>analysis"), ("<|channel>thought\n<channel|>", ""),
        ("<|START_THINKING|>", "<|START_THINKING|>"), ("<|START_THINKING|><|END_THINKING|>", ""),
        ("<|begin_of_thought|>", "<|begin_of_thought|>"), ("<|im_start|>assistant\n", ""),
        ("<think></think><think>", "<think>"),
    ],
)  # fmt: skip
def test_a_thought_that_is_open(text, tag):
    assert open_thought(text) == tag


def test_a_template_that_takes_no_notice_of_add_generation_prompt():
    [found] = said("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    assert "takes no notice of add_generation_prompt: its prompt ends before '<|im_start|>assistant'" in found
    assert "model.prompt_format=transcript" in found


def test_a_question_that_is_written_otherwise_once_it_is_answered():
    [found] = said("{% if messages | length > 1 %}ANSWERED {% endif %}" + CHATML)
    assert "writes a question otherwise once it is answered ('ANSWERED" in found


def test_an_answer_that_is_left_out():
    template = CHATML.replace("in messages", "in messages if m.role == 'user'")
    [found] = said(template)
    assert "leaves an answer out" in found
    [judged] = judge_problems(tokenizer(template), "M", "judge.rm")
    assert judged.startswith(
        "judge.rm.template: the chat template of M leaves the response out; set judge.rm.template=pair"
    )


def test_a_judge_that_would_read_a_response_as_a_thought():
    inside = CHATML.replace(
        "{{ m['content'] }}", "{% if m.role == 'assistant' %}<think>\n{% endif %}{{ m['content'] }}"
    )
    [found] = judge_problems(tokenizer(inside), "M", "judge.rm")
    assert "writes the response into an open thought (<think>)" in found


def test_an_empty_thought_before_answers_is_said():
    """It counts as part of every response; told so, the template puts it into the prompt."""
    [found] = notices(tokenizer(EMPTY_THOUGHT), "M", {}, "model")
    assert "writes '<think> </think>' before the responses of the data" in found
    assert "+model.template_kwargs.enable_thinking=false puts it into the prompt" in found
    assert notices(tokenizer(EMPTY_THOUGHT), "M", {"enable_thinking": False}, "model") == []
    assert notices(tokenizer(CHATML), "M", {}, "model") == []


def test_thoughts_of_the_data_that_a_template_leaves_out():
    [found] = thought_problems(tokenizer(SWITCHED), "M", {}, ["a", "<think>b</think>c"], "model")
    assert "responses of the data hold thoughts (… </think>), which the chat template of M leaves out" in found
    assert thought_problems(tokenizer(SWITCHED), "M", {}, ["a <b>c</b>"], "model") == []
    assert thought_problems(tokenizer(CHATML), "M", {}, ["<think>b</think>c"], "model") == []
