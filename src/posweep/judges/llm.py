"""A language model behind an OpenAI-compatible endpoint says which of two responses is better: the door to `openai`.

Every comparison is asked in both orders, so that a liking for the first place cancels. The key is read from the
environment when the endpoint is called, and is in no message, log or file.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import ssl
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import numpy as np

from posweep.errors import JudgeUnavailable
from posweep.judges.cache import Deliver
from posweep.judges.comparison import instruct, is_local, key_of, key_problems, settings_problems, verdict
from posweep.proxies import proxy_mistakes, proxy_problems, through
from posweep.records import Prompt
from posweep.settings import LlmSettings

T = TypeVar("T")
Comparison = tuple[Prompt, str, str]

PROBE = "Answer with exactly [[C]] and nothing else."
"""What the endpoint is asked to learn whether it answers at all."""
ASKS = 3
"""How often a judge that gives no verdict is asked before it counts as undecided."""
REFUSED = (400, 413, 422)
"""Statuses that may be due to one text: a content filter, or more tokens than the model reads."""
NOT_TAKEN = (400, 422)
"""Statuses of a request with a parameter that the endpoint does not take."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""Names of the longest verdict: newer models of OpenAI and Azure take the second only, other endpoints maybe the first."""
LONGEST_WAIT = 120.0
"""Seconds: openai waits no longer than this between two attempts, whatever Retry-After says."""
PREFLIGHT = 8.0
"""Seconds that the endpoint has to answer before anything is trained."""
NO_KEY = "none"


@dataclass(frozen=True)
class RequestForm:
    """Which parameters a call carries: endpoints differ in what they take of the same API.

    Attributes:
        limit: what the longest verdict is called.
        temperature: whether it is sent.
        refusal: why it is not sent though it is set, in the endpoint's words.
    """

    limit: str = LIMITS[0]
    temperature: bool = True
    refusal: str = ""

    def parameters(self, settings: LlmSettings) -> dict[str, Any]:
        """What is sent besides model and messages."""
        drawn = {} if not self.temperature or settings.temperature is None else {"temperature": settings.temperature}
        return {self.limit: settings.max_tokens, **drawn}

    def others(self, refusal: str, settings: LlmSettings) -> list[RequestForm]:
        """The forms that a refusal asks for, in the order in which to try them."""
        renamed = dict(zip(LIMITS, reversed(LIMITS), strict=True))[self.limit]
        forms = [dataclasses.replace(self, limit=renamed)] if self.limit in refusal else []
        if "temperature" in refusal and "temperature" in self.parameters(settings):
            words = _redacted(refusal, key_of(settings))
            forms.append(dataclasses.replace(self, temperature=False, refusal=words))
        return forms


_forms: dict[LlmSettings, RequestForm] = {}
"""The form that each endpoint turned out to take, as long as this process lives."""


def _form(settings: LlmSettings) -> RequestForm:
    """The form to ask in: the one that was accepted, or the usual one."""
    newer = urlsplit(settings.base_url).hostname == "api.openai.com"
    return _forms.get(_requested(settings)) or RequestForm(LIMITS[newer])


def _requested(settings: LlmSettings) -> LlmSettings:
    """Settings without those that are in no request."""
    return dataclasses.replace(settings, opponents=1, concurrency=1, attempts=1, timeout=1.0)


def notices(settings: LlmSettings, place: str) -> list[str]:
    """What a user should know of the form in which the endpoint is asked, as far as this process has asked it."""
    form = _form(settings)
    if form.temperature or settings.temperature is None:
        return []
    return [
        f"{place}.temperature: {settings.base_url} refuses {settings.temperature:g} ({form.refusal.rstrip('.')}), so none "
        "is sent: verdicts are drawn at the endpoint's own temperature and may vary more. The page counts these calls as "
        f"“temperature left out”; {place}.temperature=null says the same under a key of its own."
    ]


def problems(settings: LlmSettings, place: str) -> list[str]:
    """Everything that keeps the judge from judging, a sentence each, found by one short call: at most about 10 s.

    An endpoint that refuses a parameter is asked in another form; the one it answers in is remembered.

    Args:
        settings: of the judge.
        place: the settings' own, such as `judge.llm`.
    """
    found = settings_problems(settings, place) or key_problems(settings, place)
    found = found or proxy_problems(settings.base_url, "httpx") or _certificate_problems(settings.base_url)
    return found or _run(_probed(settings, place))


async def _probed(settings: LlmSettings, place: str) -> list[str]:
    quick = dataclasses.replace(settings, attempts=1, timeout=min(settings.timeout, PREFLIGHT))
    async with _Endpoint(quick, place) as endpoint:
        return await endpoint.problems()


@dataclass(frozen=True)
class LlmJudge:
    """Compares by asking a language model; `place` is where its settings are, for messages."""

    settings: LlmSettings
    place: str = "judge.llm"

    @property
    def opponents(self) -> int:
        """Responses of the SFT model that each response meets."""
        return self.settings.opponents

    def compare(self, prompts: Sequence[Prompt], responses: Sequence[str], opponents: Sequence[str]) -> np.ndarray:
        """How far each response beats its opponent: the mean of its verdicts in both orders, (responses,).

        Raises:
            JudgeUnavailable: the endpoint refuses, or does not answer for good.
        """
        values = np.empty(len(prompts))

        def keep(index: int, value: float, _: object) -> None:
            values[index] = value

        self.compare_each(prompts, responses, opponents, keep)
        return values

    def compare_each(
        self, prompts: Sequence[Prompt], responses: Sequence[str], opponents: Sequence[str], deliver: Deliver
    ) -> None:
        """Compare, and hand over each result with what it cost as soon as both orders are answered.

        Of what it cost: `comparisons`, `calls`, `retried` (attempts after the first), `malformed` (answers without a
        verdict), `undecided` (orders given up as a tie), `refused` (orders whose texts the endpoint does not take: a
        tie), `same` (equal texts: a tie, not asked), `prompt_tokens`, `completion_tokens`, `consistent` (comparisons
        whose orders agree), `first_wins` and `second_wins` (orders won by the place), `unfinished` (of the malformed:
        those that ended at the longest verdict), `temperature_left_out` (calls without the temperature that is set, since
        the endpoint refuses it).

        Raises:
            JudgeUnavailable: the endpoint refuses, or does not answer for good; what it has answered is handed over.
        """
        comparisons = list(zip(prompts, responses, opponents, strict=True))
        found = settings_problems(self.settings, self.place) or key_problems(self.settings, self.place)
        # a worker's machine may have proxies of its own; whether they answer, the calls will show
        found = (
            found or proxy_mistakes(self.settings.base_url, "httpx") or _certificate_problems(self.settings.base_url)
        )
        if found:
            raise JudgeUnavailable("\n".join(found))
        if comparisons:
            _run(self._compare_all(comparisons, deliver))

    async def _compare_all(self, comparisons: Sequence[Comparison], deliver: Deliver) -> None:
        """As many comparisons at a time as calls are allowed; after a failure none is begun, and the others end."""
        remaining = _each(comparisons)
        async with _Endpoint(self.settings, self.place) as endpoint:
            workers = min(self.settings.concurrency, len(comparisons))
            ended = await asyncio.gather(
                *(_work(endpoint, remaining, deliver) for _ in range(workers)), return_exceptions=True
            )
        for error in ended:
            if error is not None:
                raise error


def _each(comparisons: Sequence[Comparison]) -> Iterator[tuple[int, Comparison]]:
    yield from enumerate(comparisons)


async def _work(endpoint: _Endpoint, remaining: Any, deliver: Deliver) -> None:
    """Take comparisons until none is left, one call at a time."""
    try:
        for index, texts in remaining:
            deliver(index, *await endpoint.compare(*texts))
    finally:
        remaining.close()


@dataclass(frozen=True)
class _Answer:
    """What became of one call: the text, or None for an answer that is no chat completion.

    Attributes:
        cut: whether it ended at `max_tokens`.
        error: what stands in place of a completion.
    """

    text: str | None
    counts: Counter[str] = field(default_factory=Counter)
    cut: bool = False
    error: str = ""


class _Endpoint:
    """The endpoint while one batch is judged."""

    def __init__(self, settings: LlmSettings, place: str):
        import openai

        for name in ("openai", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)  # below that they may write requests and headers
        self.settings, self.place = settings, place
        self.client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=key_of(settings) or NO_KEY,
            timeout=settings.timeout,
            max_retries=settings.attempts - 1,
            # a proxy cannot reach what is on this machine; certificates are the environment's all the same
            http_client=openai.DefaultAsyncHttpxClient(
                trust_env=not is_local(settings.base_url), verify=_certificates(settings.base_url) or True
            ),
        )
        self.learning = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def compare(self, prompt: Prompt, response: str, opponent: str) -> tuple[float, Counter[str]]:
        """How far the response beats its opponent, and what it cost to know; equal texts are a tie by symmetry."""
        if response == opponent:
            return 0.5, Counter(comparisons=1, same=1)
        ahead, counts = await self._verdict(prompt, response, opponent)
        behind, more = await self._verdict(prompt, opponent, response)
        counts += more
        decided = not (counts["undecided"] or counts["refused"])
        places = Counter((ahead, behind))
        counts += Counter(comparisons=1, consistent=int(decided and ahead + behind == 1))
        counts += Counter(first_wins=places[1.0], second_wins=places[0.0])
        return (ahead + 1 - behind) / 2, counts

    async def _verdict(self, prompt: Prompt, first: str, second: str) -> tuple[float, Counter[str]]:
        """Whether the first response is better; without a verdict the judge is asked again, then it is a tie."""
        content, counts = instruct(self.settings.instruction, prompt, first, second), Counter[str]()
        for _ in range(ASKS):
            form = _form(self.settings)
            answer = await self._call(content, form)
            while _status(answer) in REFUSED:
                counts += (await self._ask_again(form)).counts  # raises in its turn where it is not these texts
                if _form(self.settings) == form:
                    return 0.5, counts + Counter(refused=1)
                form = _form(self.settings)
                answer = await self._call(content, form)
            checked = self._checked(answer)
            counts += checked.counts
            if (found := verdict(checked.text or "")) is not None:
                return found, counts
            counts += Counter(malformed=1, unfinished=int(checked.cut))
        if checked.text is None:
            raise JudgeUnavailable(self._no_completion(checked))
        return 0.5, counts + Counter(undecided=1)

    async def problems(self) -> list[str]:
        """What one short call shows."""
        answer = await self._probe(_form(self.settings))
        if (
            _status(answer) == 429
            and getattr(answer, "code", None) != "insufficient_quota"
            and _asked_to_wait(answer) <= LONGEST_WAIT
        ):
            return []  # it is there, knows the key, and is waited for when it matters
        if isinstance(answer, Exception):
            return [self._sentence(answer)]
        if answer.text is None:
            return [self._no_completion(answer)]
        if answer.cut and verdict(answer.text) is None:
            return [
                f"{self.place}.max_tokens: {self.settings.model} came to no verdict within {self.settings.max_tokens} "
                f"tokens; raise {self.place}.max_tokens."
            ]
        if not answer.text.strip():
            return [
                f"{self.place}.model: {self.settings.model} at {self.settings.base_url} answers with an empty text; raise "
                f"{self.place}.max_tokens if it reasons before it answers, or name another model."
            ]
        return []

    async def _ask_again(self, form: RequestForm) -> _Answer:
        """What the endpoint answers to a short question after it refused a text in some form; one call finds out for all.

        Raises:
            JudgeUnavailable: it refuses that question, too, in every form.
        """
        async with self.learning:
            if _form(self.settings) != form:
                return _Answer("")  # another call has just found out
            return self._checked(await self._probe(form))

    async def _probe(self, form: RequestForm) -> _Answer | Exception:
        """The answer to a short question in the first form that is accepted, which is remembered; else a refusal.

        A refusal of a short question is about its parameters, that of a comparison may be about its texts.
        """
        first = answer = await self._call(PROBE, form)
        waiting, tried = [form], {form}
        while refusal := _refusal(answer):
            form = waiting.pop(0)
            waiting = [other for other in (*form.others(refusal, self.settings), *waiting) if other not in tried]
            if not waiting:
                return first if form.limit in refusal else answer
            tried.add(waiting[0])
            answer = await self._call(PROBE, waiting[0])
        if not isinstance(answer, Exception) and answer.text is not None:
            _forms[_requested(self.settings)] = waiting[0]
        return answer

    async def _call(self, content: str, form: RequestForm) -> _Answer | Exception:
        """One answer, retried by the client; an error is a value, so that none is chained to the request with its key."""
        import openai

        create = self.client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self._patience()):
                raw = await create(
                    model=self.settings.model,
                    messages=[{"role": "user", "content": content}],
                    **form.parameters(self.settings),
                )
        except (openai.OpenAIError, TimeoutError) as error:
            return error
        answer = _read(raw)
        if not form.temperature and self.settings.temperature is not None:
            answer.counts["temperature_left_out"] = 1
        return answer

    def _patience(self) -> float:
        """Seconds for all attempts: the client's own time-out is between bytes, and what trickles in has to end too."""
        attempts = self.settings.attempts
        return attempts * self.settings.timeout + (attempts - 1) * LONGEST_WAIT

    def _checked(self, answer: _Answer | Exception) -> _Answer:
        if isinstance(answer, Exception):
            raise JudgeUnavailable(self._sentence(answer))
        return answer

    def _no_completion(self, answer: _Answer) -> str:
        url = self.settings.base_url
        words = f" ({_redacted(answer.error, key_of(self.settings))})" if answer.error else ""
        return (
            f"{self.place}.base_url: {url} answers, but with no chat completion{words}; it should look like "
            "https://HOST/v1."
        )

    def _sentence(self, error: Exception) -> str:
        """What went wrong, where, and the way out; the endpoint's own words without the key."""
        import openai

        s, place, status = self.settings, self.place, _status(error)
        words = _redacted(getattr(error, "message", str(error)), key_of(s)) + through(s.base_url)
        if moved := _redirected(getattr(error, "response", None)):
            return (
                f"{place}.base_url: {s.base_url} redirects to {moved} ({status}); set {place}.base_url to where it is."
            )
        match status:
            case 401 | 403:
                whose = f"the key in {s.key_from}" if key_of(s) else "calls without a key"
                cure = f"export a valid key in {s.key_from}" if s.key_from else f"name its variable in {place}.key_from"
                return f"{place}.key_from: {s.base_url} refuses {whose} ({status}); {cure}."
            case 404:
                return (
                    f"{place}.model: {s.base_url} has no chat model {s.model!r} (404); see {place}.model and "
                    f"{place}.base_url."
                )
            case 429 if (seconds := _asked_to_wait(error)) > LONGEST_WAIT:
                return (
                    f"{place}.base_url: {s.base_url} asks to wait {seconds:g} s ({words}), and no call waits longer than "
                    f"{LONGEST_WAIT:g} s; run again later, or name another endpoint."
                )
            case 429:
                return (
                    f"{place}.attempts: {s.base_url} limits the rate for longer than {s.attempts} attempts ({words}); lower "
                    f"{place}.concurrency, raise {place}.attempts, or run again later."
                )
            case int():
                setting = self._named_in(_refusal(error))
                return f"{setting}: {s.base_url} does not answer as asked ({words}); mend that, then run again."
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return (
                f"{place}.timeout: {s.base_url} gave no answer within {s.timeout:g} s, attempts: {s.attempts}; see whether "
                f"it is well, or raise {place}.timeout."
            )
        cause = _redacted(str(error.__cause__ or error), key_of(s)) + through(s.base_url)
        if "CERTIFICATE_VERIFY_FAILED" in cause:
            return (
                f"{place}.base_url: {s.base_url} shows a certificate that this machine does not trust ({cause}); export "
                "SSL_CERT_FILE with the file of the authority that signed it."
            )
        return (
            f"{place}.base_url: {s.base_url} cannot be reached ({cause}), attempts: {s.attempts}; see whether it is "
            "running, and whether this machine may call it."
        )

    def _named_in(self, refusal: str) -> str:
        """The setting that a refusal is about, as far as it says."""
        if any(limit in refusal for limit in LIMITS):
            return f"{self.place}.max_tokens"
        return f"{self.place}.temperature" if "temperature" in refusal else self.place


def _read(raw: Any) -> _Answer:
    """A chat completion's text and tokens; endpoints that are only compatible leave things out."""
    counts = Counter(calls=1, retried=raw.retries_taken)
    try:
        completion = raw.parse()
        if not completion.choices:
            error = getattr(completion, "error", None)
            message = error.get("message") if isinstance(error, Mapping) else None
            return _Answer(None, counts, error=str(message or error or ""))
        choice, usage = completion.choices[0], completion.usage
        for name in ("prompt_tokens", "completion_tokens"):
            counts[name] += getattr(usage, name, None) or 0
        return _Answer(_text(choice.message.content), counts, choice.finish_reason == "length")
    except (AttributeError, LookupError, TypeError, ValueError):
        moved = _redirected(raw.http_response)
        return _Answer(None, counts, error=f"after a redirect to {moved}" if moved else "")


def _text(content: Any) -> str:
    """The text of a message, which may come in parts; a part that is a thought or an image is none of it."""
    if isinstance(content, str) or content is None:
        return content or ""
    texts = [part for part in content if isinstance(part, str) or part.get("type", "text") in ("text", "output_text")]
    return "".join(text if isinstance(text, str) else text.get("text") or "" for text in texts)


def _refusal(answer: _Answer | Exception) -> str:
    """In which words a request was not taken, its parameter included; empty where it was, or was not for its form."""
    if not isinstance(answer, Exception):
        return answer.error
    if _status(answer) not in NOT_TAKEN:
        return ""
    said, param, body = getattr(answer, "message", ""), getattr(answer, "param", None), getattr(answer, "body", None)
    words = said.partition(" - ")[2] or str(body or said)
    return f"{param}: {words}" if param and param not in words else words


def _asked_to_wait(answer: _Answer | Exception) -> float:
    """The seconds of a refusal's Retry-After; 0 without one, or where it is a date."""
    response = getattr(answer, "response", None)
    try:
        return float(response.headers.get("retry-after", 0)) if response is not None else 0.0
    except ValueError:
        return 0.0


def _redirected(response: Any) -> str:
    """Where a request ended that the endpoint sent on; empty where it did not."""
    if not getattr(response, "history", None):
        return ""
    return str(response.url.copy_with(query=None, fragment=None)).removesuffix("/chat/completions")


def _certificates(url: str) -> ssl.SSLContext | None:
    """The authorities that the environment names; None where it names none, or where this machine is asked without TLS."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not (file or folder) or (is_local(url) and urlsplit(url).scheme == "http"):
        return None  # of an address elsewhere the client reads them in any case
    return ssl.create_default_context(cafile=file or None, capath=folder or None)


def _certificate_problems(url: str) -> list[str]:
    """Authorities that the environment names, and that cannot be read."""
    try:
        _certificates(url)
    except OSError as error:
        return [
            f"SSL_CERT_FILE: {os.environ.get('SSL_CERT_FILE', '')} holds no certificates that can be read "
            f"({error.strerror or error}); correct or unset SSL_CERT_FILE."
        ]
    return []


def _status(answer: _Answer | Exception) -> int | None:
    return getattr(answer, "status_code", None)


def _redacted(words: str, key: str) -> str:
    """One line without the key, nor anything that looks like one."""
    line = " ".join(words.split())
    line = line.replace(key, "…") if key else line
    return re.sub(r"(?i)\b(sk-|bearer )\S+", "…", line)[:200]


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end from synchronous code, in whichever thread; where a loop runs in this one, in another."""
    running = None
    with contextlib.suppress(RuntimeError):
        running = asyncio.get_running_loop()
    if running is None:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
