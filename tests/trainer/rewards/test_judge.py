"""A judge behind an API, which is now and then busy, broken, silent or of another opinion."""

import json
import threading
from pathlib import Path

import pytest

from tests.clouds.chat import KEY, MODEL, busy, error, running_chat, said
from trainer.config import JudgeConfig, TrainingConfig
from trainer.contract.errors import ConfigError, TrainingFailed
from trainer.rewards import judge_api
from trainer.rewards.counts import Counts, sentences
from trainer.rewards.judge import Judge

ASK = [{"role": "user", "content": "What is LoRA?"}]
HTML = (200, {"Content-Type": "text/html"}, b"<html>Bad gateway</html>")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(judge_api, "FIRST_PAUSE", 0.001)


@pytest.fixture
def server():
    with running_chat() as chat:
        yield chat


@pytest.fixture
def make(server, tmp_path):
    def make(columns=(), **settings) -> Judge:
        given = {"base_url": server.base_url, "model": MODEL, "timeout_seconds": 5, **settings}
        return Judge(JudgeConfig.model_validate(given), columns, tmp_path, Counts())

    return make


def scores(judge, *answers, **columns):
    return judge(prompts=[ASK] * len(answers), completions=list(answers), **columns)


def test_answers_are_judged_on_a_scale_from_0_to_1(server, make):
    server.judge = lambda text: said(f"Hm.\n**Score:** {10 if 'yes' in text else 2.5}")

    judge = make()

    assert scores(judge, "yes", [{"role": "assistant", "content": "bad"}]) == [1.0, 0.25]
    asked = {body["messages"][0]["content"] for body in server.asked}
    assert all("What is LoRA?" in text and "from 0 to 10" in text for text in asked)
    assert server.asked[0].keys() == {"model", "messages", "temperature"}


def test_a_template_of_your_own_gets_the_columns_of_the_row(server, make):
    template = '{prompt}|{completion}|{answer}|{facts} Say {"score": 3} or {{completion}}'
    judge = make(["answer", "facts"], template=template, lowest=0, highest=5)
    server.judge = lambda text: said('{"score": 3}')

    rewards = scores(judge, "{answer}", answer=["42"], facts=[{"a": ["é"]}])

    assert rewards == [0.6]
    [request] = [body["messages"][0]["content"] for body in server.asked]
    assert request == ('What is LoRA?|{answer}|42|{"a": ["é"]} Say {"score": 3} or {completion}')
    with pytest.raises(ConfigError, match=r"template names {answer}, and the dataset has facts\."):
        make(["facts"], template=template)


def test_what_was_judged_is_never_asked_again(server, make, tmp_path):
    replies = iter(["Score: 3", "I will not say.", "Score: 8", "Score: 0"])
    server.judge = lambda text: said(next(replies))
    judge = make(concurrency=1)
    first = scores(judge, "a", "b", "a", "c")
    with (tmp_path / "judgements.jsonl").open("a") as stream:
        stream.write('{"key": "torn')

    again = make(concurrency=1)

    assert first == scores(judge, "a", "b", "a", "c") == scores(again, "a", "b", "a", "c")
    assert first == [0.3, None, 0.3, 0.8]
    assert scores(again, "d", "a") == [0.0, 0.3]
    assert len(server.asked) == 4
    assert again._counts.by_name["judge: calls"] == 4, "of both processes"
    server.judge = lambda text: said("Score: 5")
    assert scores(make(highest=100), "a", "c") == [0.05, 0.05], "of another scale"


@pytest.mark.parametrize(
    "trouble",
    [
        lambda: busy(Retry_After="0"),
        lambda: busy(Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        lambda: busy(Retry_After="soon"),
        lambda: error(500, "The server had an error"),
        lambda: error(503, "Overloaded"),
        lambda: HTML,
        lambda: (200, {}, b'{"error": {"message": "upstream"}}'),
        lambda: (200, {}, b'{"choices": []}'),
        lambda: (200, {}, b"[" * 100_000),
        lambda: (200, {}, b""),
    ],
    ids=["429", "date", "no date", "500", "503", "html", "error", "empty", "nested", "nothing"],
)
def test_trouble_that_passes_is_waited_for(server, make, trouble):
    server.troubles.extend([trouble, trouble])
    judge = make()

    assert scores(judge, "a") == [0.5]
    assert judge._counts.by_name == {
        "judge: calls": 3,
        "judge: tried again": 2,
        "judge: prompt tokens": 19,
        "judge: completion tokens": 10,
        "judge: answers from the cache": 0,
    }


def test_nothing_is_sent_before_the_server_wants_it(server, make, monkeypatch):
    slept = []
    sleep = judge_api.asyncio.sleep

    async def noted(seconds):
        slept.append(seconds)
        await sleep(0.001)

    monkeypatch.setattr(judge_api.asyncio, "sleep", noted)
    server.troubles.append(lambda: busy(Retry_After="33"))

    assert scores(make(concurrency=1), "a", "b") == [0.5, 0.5]
    # The one that was refused, and the next one that would have been.
    assert len([seconds for seconds in slept if 30 < seconds <= 33]) >= 2


def test_silence_is_given_up(server, make):
    server.troubles.extend([lambda: None] * 2)
    judge = make(timeout_seconds=0.2, max_retries=1, concurrency=1)

    assert scores(judge, "a", "b") == [None, 0.5]
    assert sentences(judge._counts.by_name)[0] == (
        "1 answer got no score by the judge judge-1: no answer within 0.2 s."
    )


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        (said(None, refusal="I can't help with that."), "it refused"),
        (said(None, "content_filter"), "it refused"),
        (said("I'm sorry, but I can't assist with that."), "its reply held no score"),
        (said(None, reasoning_content="Perhaps Score: 9"), "its reply was empty"),
        (said("<think>Score: 9", "length"), "its reply was cut before its end"),
        (said("<think>Score: 9"), "its reply was empty"),
        (said("Score: 11"), "its score was not from 0 to 10"),
        (said("Score: 7,5"), "its reply held no score"),
    ],
)
def test_a_reply_without_a_score_is_no_score(server, make, capsys, choice, why):
    server.judge = lambda text: choice if "odd" in text else said("<think>Score: 1</think>Score: 4")
    judge = make()

    assert scores(judge, "odd", [{"role": "assistant", "content": "plain"}]) == [None, 0.4]
    assert capsys.readouterr().out.count(f"gave an answer no score: {why}") == 1


def test_parts_of_a_content_are_one_text(server, make):
    server.judge = lambda text: said([{"type": "text", "text": "Score: "}, {"text": "6"}, "?"])

    assert scores(make(), "a") == [0.6]


def test_so_many_are_judged_at_once_and_no_more(server, make):
    server.together = threading.Barrier(4)

    assert scores(make(concurrency=4), *"abcdefgh") == [0.5] * 8
    assert server.most_at_once == 4


def test_a_server_that_scores_nothing_ends_the_job_soon(server, make, tmp_path):
    server.always = lambda: error(500, "out of order")
    judge = make(max_retries=1, concurrency=2)

    with pytest.raises(
        TrainingFailed, match="scored none of 8 answers: HTTP 500: out of order"
    ) as e:
        scores(judge, *map(str, range(1000)))

    assert "resume the job" in str(e.value)
    assert len(server.asked) < 30
    server.always = None
    server.judge = lambda text: said("It is hard to say.")
    with pytest.raises(TrainingFailed, match="of 2 answers: no reply held a score"):
        scores(judge, "x", "y")


def test_one_request_that_is_refused_costs_its_own_score_alone(server, make):
    server.troubles.append(lambda: error(400, "maximum context length is 8 tokens", "too_long"))
    judge = make(concurrency=1)

    assert scores(judge, "a", "b") == [None, 0.5]
    assert len(server.asked) == 2  # what would fail again is not tried again
    server.troubles.append(lambda: error(403, "flagged by moderation"))
    assert scores(judge, "c", "d") == [None, 0.5]


def test_an_account_without_money_is_not_asked_again_and_again(server, make):
    server.always = lambda: error(429, "You exceeded your quota", "insufficient_quota")

    with pytest.raises(
        TrainingFailed, match=r"429: You exceeded your quota \[insufficient_quota\]"
    ):
        scores(make(), "a")

    assert len(server.asked) == 1


def test_a_wrong_key_or_model_ends_the_job_at_once_and_is_not_shown(
    server, make, monkeypatch, tmp_path, capsys
):
    with pytest.raises(ConfigError, match=r"HTTP 404: The model `nobody` does not exist"):
        scores(make(model="nobody"), "a", "b")
    monkeypatch.setenv("JUDGE_KEY", wrong := "sk-wrong-canary")
    with pytest.raises(ConfigError, match=r"HTTP 401: .* \[invalid_api_key\]\. .*JUDGE_KEY") as e:
        scores(make(api_key_variable="JUDGE_KEY"), "a")

    seen = str(e.value) + capsys.readouterr().out
    seen += "".join(path.read_text() for path in Path(tmp_path).iterdir())
    assert wrong not in seen
    assert KEY not in seen


def test_a_key_that_is_not_there_is_missed_before_anything_is_asked(make, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")

    with pytest.raises(ConfigError, match="variable OPENAI_API_KEY, which should hold the key"):
        make()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\nx")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds is no key") as e:
        make()
    assert "sk-" not in str(e.value)
    assert make(api_key_variable=None)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"api_key_variable": "sk-proj-secret"}, "api_key_variable must be OPENAI_API_KEY"),
        ({"api_key_variable": "AWS_SECRET_ACCESS_KEY"}, "begins with JUDGE_"),
        ({"base_url": "https://me:secret@host/v1"}, "base_url must not hold a password"),
        ({"base_url": "host/v1"}, "base_url is not an address"),
        ({"parameters": {"top_p": float("nan")}}, "parameters.top_p must be a finite number"),
        ({"base_url": "http://host/v1/chat/completions/"}, "leave /chat/completions out"),
        ({"base_url": "http://host:port/v1"}, "base_url is not an address"),
        ({"template": "{prompt}"}, "must hold {completion}"),
        ({"score_pattern": "("}, "is not a regular expression"),
        ({"lowest": 10}, "lowest = 10 must be below highest = 10"),
        ({"parameters": {"stream": True}}, "parameters.stream is set by the judge"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_without_showing_a_secret(settings, problem):
    from trainer.config.explain import validated

    job = {"model": "m", "dataset": "d", "method": "grpo"}
    with pytest.raises(ConfigError) as e:
        validated(TrainingConfig, {**job, "reward_judge": {"model": "j", **settings}}, "job.yaml")

    assert problem in str(e.value)
    assert "secret" not in str(e.value)


def test_the_rest_of_the_reply_is_kept_for_people(server, make, tmp_path):
    server.judge = lambda text: said("Too short.\nScore: 3")

    scores(make(), "a")

    [record] = map(json.loads, (tmp_path / "judgements.jsonl").read_text().splitlines())
    assert record["reply"] == "Too short.\nScore: 3"
