"""The commands, run as processes against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
import redis as redis_client

from tests.daemon.litellm_files import LITERAL_SECRETS, SECRETS
from tests.e2e.commands import Background, Shell, alive, reply_to, running
from tests.e2e.processes import until
from theo_daemon.embedded_llm import LocalModelMissing, weights
from theo_daemon.embedded_valkey import EmbeddedValkey

pytestmark = pytest.mark.e2e

NOWHERE = "redis://:hunter2@127.0.0.1:1/0"


# -- submit and cancel ------------------------------------------------------------------------------------------------


def test_submit_prints_the_answer_and_leaves_no_stream_behind(
    shell: Shell, client: redis_client.Redis
) -> None:
    assert shell.ok("submit", "hello there") == "hello there\n"
    assert list(client.scan_iter(f"{shell.prefix}:reply:*")) == []


def test_submit_reads_the_prompt_from_standard_input(shell: Shell) -> None:
    done = shell.run("submit", "-", "--lane", "high", stdin="from a pipe")
    assert (done.returncode, done.stdout) == (0, "from a pipe\n")


def test_submit_prints_the_deltas_once(shell: Shell) -> None:
    assert shell.ok("submit", "count", "--model", "words", "--stream") == "one two three\n"


def test_submit_gives_the_whole_reply_as_json(shell: Shell) -> None:
    fields = ("--id", "job-7", "--tenant", "acme", "--workflow", "w", "--model", "spare")
    reply = shell.json("submit", "as a document", *fields)
    said = {
        "id": "job-7",
        "tenant": "acme",
        "status": "ok",
        "final": True,
        "cache_hit": False,
        "model": "spare",
    }
    assert said.items() <= reply.items()
    assert [attempt["outcome"] for attempt in reply["attempts"]] == ["ok"]
    assert reply["usage"]["prompt_tokens"] == reply["prompt_tokens"] == 3


def test_an_error_reply_is_exit_status_1_with_its_code(shell: Shell) -> None:
    status, said = shell.refused("submit", "hi", "--model", "nope")
    assert status == 1
    assert "unknown_model" in said
    status, out, _ = shell.here("submit", "hi", "--model", "nope", "--json")
    assert (status, json.loads(out)["error_code"]) == (1, "unknown_model")


def test_a_lane_that_nobody_reads_is_a_usage_error(shell: Shell) -> None:
    status, said = shell.refused("submit", "hi", "--lane", "express")
    assert status == 2
    assert "high, default, low" in said


def test_submit_says_when_no_process_reads_the_jobs(quiet: Shell, client: redis_client.Redis) -> None:
    status, said = quiet.refused("submit", "hi", "--timeout", "0.2")
    assert status == 1
    assert f"No process reads {quiet.prefix}:jobs" in said
    assert client.xlen(f"{quiet.prefix}:jobs") == 1  # the job itself goes on


def test_where_no_own_reply_stream_is_allowed_the_reply_is_found_among_the_others(
    shell: Shell, client: redis_client.Redis
) -> None:
    narrow = shell.folder / "narrow.toml"
    narrow.write_text(shell.config.read_text() + '\n[reply]\nallowed = ["P:replies"]\n')
    assert shell.ok("submit", "in the crowd", "--config", str(narrow)) == "in the crowd\n"
    assert client.xrevrange(f"{shell.prefix}:replies", count=1)[0][1]["output"] == "in the crowd"


def test_a_cancelled_job_gets_the_reply_cancelled(shell: Shell, client: redis_client.Redis) -> None:
    pushed = shell.json("submit", "hi", "--model", "hangs", "--no-wait")
    shell.ok("cancel", pushed["entry_id"])
    assert reply_to(client, shell, pushed["entry_id"])["error_code"] == "cancelled"


# -- looking ----------------------------------------------------------------------------------------------------------


def test_status_tells_lanes_consumers_models_and_hits(shell: Shell) -> None:
    shell.ok("submit", "known to status")
    shell.ok("submit", "known to status")
    status = shell.json("status")
    assert (status["depth"], status["in_flight"], status["oldest_age_s"]) == (0, 0, None)
    assert [lane["lane"] for lane in status["lanes"]] == ["high", "default", "low"]
    assert len(status["consumers"]) == 1
    models = {model["name"]: model for model in status["models"]}
    assert (models["echo"]["state"], models["echo"]["breaker"]) == ("closed", "closed")
    assert models["echo"]["ceiling_usd"] == 5.0
    assert models["echo"]["spent_usd"] > 0
    assert status["jobs"]["cache_hits"] >= 1
    assert 0 < status["jobs"]["hit_rate"] < 1
    assert status["process"]["not_ready"] is None
    for said in ("echo", "closed", "ready", "$5.00"):
        assert said in shell.ok("status")


def test_status_without_a_daemon_shows_what_waits(quiet: Shell) -> None:
    quiet.ok("submit", "hi", "--no-wait")
    status = quiet.json("status")
    assert (status["depth"], status["in_flight"], status["consumers"]) == (1, 0, [])
    assert status["oldest_age_s"] >= 0
    assert status["process"] is None
    assert "no process reads these lanes" in quiet.ok("status")


def test_spend_and_latency_come_from_the_ledger(shell: Shell) -> None:
    shell.ok("submit", "costs a little")
    spend = shell.json("spend")
    echo = next(model for model in spend["models"] if model["name"] == "echo")
    assert echo["spent"] >= 6 * 100 / 1e6  # three words in, three out
    assert echo["left"] == pytest.approx(5.0 - echo["spent"])
    assert spend["total"] >= echo["spent"]
    latency = {model["name"]: model for model in shell.json("latency")["models"]}
    assert latency["echo"]["calls"] >= 1
    assert latency["echo"]["prompt_tokens"] >= 3
    assert "echo" in shell.ok("spend")
    assert "echo" in shell.ok("latency")


def test_spend_without_a_ledger_says_so(quiet: Shell) -> None:
    status, said = quiet.refused("spend")
    assert status == 1
    assert "no daemon has written a ledger there yet" in said


def test_doctor_finds_nothing_on_a_good_server_and_the_policy_on_a_bad_one(
    shell: Shell, own_valkey: EmbeddedValkey
) -> None:
    report = shell.json("doctor")
    assert report["ok"]
    assert {"redis", "persistence", "clock", "ledger", "daemon"} <= {
        row["what"] for row in report["findings"]
    }
    with redis_client.Redis.from_url(own_valkey.url) as bad:
        bad.config_set("maxmemory-policy", "allkeys-lru")
        status, out, _ = shell.here("doctor", "--redis-url", own_valkey.url)
        assert (status, "allkeys-lru" in out) == (1, True)
        bad.config_set("maxmemory-policy", "noeviction")
        bad.config_set("appendonly", "no")
        bad.config_set("save", "")
        status, out, _ = shell.here("doctor", "--redis-url", own_valkey.url, "--json")
    broken = [row["what"] for row in json.loads(out)["findings"] if row["state"] == "fail"]
    assert (status, broken) == (1, ["persistence"])


def test_the_schema_is_an_asyncapi_document_with_the_configured_prefix(shell: Shell) -> None:
    document = json.loads(shell.ok("schema"))
    assert document["asyncapi"].startswith("3.")
    assert f'"{shell.prefix}:jobs"' in json.dumps(document)


# -- operating --------------------------------------------------------------------------------------------------------


def test_a_disabled_model_answers_again_once_enabled(shell: Shell) -> None:
    shell.ok("model", "disable", "spare")
    status, said = shell.refused("submit", "anyone?", "--model", "spare")
    assert (status, "no_model_available" in said) == (1, True)
    shell.ok("model", "enable", "spare")
    assert shell.ok("submit", "anyone there?", "--model", "spare") == "anyone there?\n"
    assert shell.refused("model", "disable", "nope")[0] == 2


def test_a_reset_budget_begins_anew(shell: Shell) -> None:
    shell.ok("submit", "to be forgiven")
    (before,) = shell.json("budget", "show")["budgets"]
    assert before["spent"] > 0
    assert shell.run("budget", "reset", stdin="n\n").returncode == 1
    (kept,) = shell.json("budget", "show")["budgets"]
    assert kept["spent"] >= before["spent"]
    shell.ok("budget", "reset", "echo", "--yes")
    (after,) = shell.json("budget", "show")["budgets"]
    assert (after["spent"], after["left"]) == (0, 5.0)


# -- check-config -----------------------------------------------------------------------------------------------------


def test_check_config_says_ok_and_what_it_means(quiet: Shell) -> None:
    said = quiet.ok("check-config", str(quiet.config))
    assert said.startswith("OK")
    assert "$5.00 per 1d" in said
    assert quiet.json("check-config", "theo-router.toml")["models"][0]["name"] == "echo"


def test_check_config_lists_every_problem(quiet: Shell) -> None:
    bad = quiet.folder / "bad.toml"
    bad.write_text('[routing]\ndefualt = "x"\n[[models]]\nname = "a"\nprovider = "scriptd"\n')
    status, said = quiet.refused("check-config", str(bad))
    assert status == 1
    assert "defualt" in said
    assert "default" in said
    assert "scriptd" in said
    status, out, _ = quiet.here("check-config", str(bad), "--json")
    report = json.loads(out)
    assert (status, report["ok"], len(report["problems"])) == (1, False, 2)
    assert quiet.refused("check-config", "missing.toml")[0] == 2


# -- import -----------------------------------------------------------------------------------------------------------


def test_a_litellm_file_becomes_one_that_check_config_accepts(quiet: Shell) -> None:
    (quiet.folder / "litellm.yaml").write_text(LITERAL_SECRETS)
    status, out, errors = quiet.here("import", "litellm", "litellm.yaml", "--out", "ours.toml")
    assert (status, out) == (0, "")
    assert "not as it was: general_settings master_key" in errors
    assert "set in the environment: A_API_KEY" in errors
    quiet.environment |= {"A_API_KEY": "sk-a", "B_X_API_TOKEN": "sk-b"}
    assert quiet.ok("check-config", "ours.toml").startswith("OK")

    status, said = quiet.refused("import", "litellm", "litellm.yaml", "--out", "ours.toml")
    assert (status, "exists already" in said) == (2, True)
    written = (quiet.folder / "ours.toml").read_text()
    assert quiet.ok("import", "litellm", "litellm.yaml") == written
    assert not [secret for secret in SECRETS if secret in written + errors]


def test_a_file_that_is_none_of_litellm_s_is_refused_in_words(quiet: Shell) -> None:
    (quiet.folder / "compose.yaml").write_text("services: {}\n")
    for name, why in (("compose.yaml", "has no model_list"), ("nowhere.yaml", "cannot be read")):
        status, said = quiet.refused("import", "litellm", name)
        assert (status, why in said) == (2, True)


# -- serve ------------------------------------------------------------------------------------------------------------


def test_serve_that_cannot_start_says_why_and_what_to_do(quiet: Shell) -> None:
    status, said = quiet.refused("serve", "--redis-url", NOWHERE)
    assert (status, "hunter2" in said) == (1, False)
    assert "Redis does not answer at redis://***@127.0.0.1:1/0" in said
    status, said = quiet.refused("status", "--redis-url", NOWHERE)
    assert (status, "does not answer" in said, "hunter2" in said) == (1, True, False)

    bare = quiet.folder / "bare.toml"
    bare.write_text('[[models]]\nname = "echo"\nprovider = "scripted"\n')
    status, said = quiet.refused("serve", "--config", str(bare))
    assert (status, "THEO_REDIS_URL" in said, "--embedded" in said) == (2, True, True)

    (quiet.folder / "taken").mkdir()
    bare.write_text(bare.read_text() + '[ledger]\nurl = "sqlite:///taken"\n')
    status, said = quiet.refused("serve", "--config", str(bare), "--redis-url", quiet.url)
    assert (status, "is a folder" in said) == (1, True)
    bare.write_text("models = 3\n")
    assert quiet.refused("serve", "--config", str(bare))[0] == 2
    assert quiet.refused("serve", "--processes", "0")[0] == 2


def test_commands_need_no_configuration_file_when_they_are_told_the_address(
    quiet: Shell, valkey: EmbeddedValkey
) -> None:
    quiet.config.unlink()
    assert quiet.json("dead", "ls", "--redis-url", valkey.url)["letters"] is not None
    status, said = quiet.refused("status")
    assert (status, "no Redis address" in said) == (2, True)
    status, said = quiet.refused("serve")
    assert (status, "no configuration file" in said, "THEO_REDIS_URL" in said) == (2, True, True)


def test_a_drain_lets_a_sent_call_finish_and_exits_0(quiet: Shell, client: redis_client.Redis) -> None:
    with Background(quiet, "serve") as daemon:
        daemon.wait_for("process_started")
        pushed = quiet.json("submit", "hi", "--model", "slow", "--no-wait")
        until(lambda: running(quiet, "slow"), 10.0)
        daemon.signal()
        assert daemon.wait() == 0
    assert reply_to(client, quiet, pushed["entry_id"])["output"] == "at last"
    (drained,) = daemon.events("drain_finished")
    assert drained["cut_off"] == 0


def test_a_second_signal_stops_at_once_and_the_job_stays(quiet: Shell, client: redis_client.Redis) -> None:
    with Background(quiet, "serve") as daemon:
        daemon.wait_for("process_started")
        quiet.json("submit", "hi", "--model", "hangs", "--no-wait")
        until(lambda: running(quiet, "hangs"), 10.0)
        daemon.signal(signal.SIGINT)
        daemon.wait_for("drain_started")
        daemon.signal()
        assert daemon.wait(10.0) == 1
    assert client.xlen(f"{quiet.prefix}:jobs") == 1


def test_several_processes_share_the_work_are_replaced_and_drain(
    quiet: Shell, client: redis_client.Redis
) -> None:
    with Background(quiet, "serve", "--processes", "2") as parent:
        started = parent.wait_for("process_started", 2)
        children = [int(line["consumer"].split("-")[-2]) for line in started]
        assert len(set(children)) == 2
        assert quiet.ok("submit", "two hands") == "two hands\n"
        os.kill(children[0], signal.SIGKILL)
        (restarted,) = parent.wait_for("process_restarted")
        assert restarted["status"] == -signal.SIGKILL
        third = parent.wait_for("process_started", 3)[2]
        parent.signal()
        assert parent.wait() == 0
        assert not any(alive(pid) for pid in (*children, int(third["consumer"].split("-")[-2])))


def test_an_embedded_server_is_started_and_ends_with_the_daemon(quiet: Shell) -> None:
    quiet.config.write_text(
        '[routing]\ndefault = "echo"\n[telemetry]\nhttp = ""\n[[models]]\nname = "echo"\nprovider = "scripted"\n'
    )
    with Background(quiet, "serve", "--embedded") as daemon:
        (started,) = daemon.wait_for("process_started")
        server = redis_client.Redis.from_url(started["redis"])
        pid = server.info("server")["process_id"]
        assert quiet.ok("submit", "to our own", "--redis-url", started["redis"]) == "to our own\n"
        daemon.signal(signal.SIGINT)
        assert daemon.wait() == 0
    assert not alive(pid)
    assert (quiet.folder / "theo-ledger.db").exists()  # beside the configuration


# -- demo -------------------------------------------------------------------------------------------------------------


def test_a_kept_demo_has_answered_every_kind_of_job_and_leaves_nothing_behind(quiet: Shell) -> None:
    quiet.environment["TMPDIR"] = str(quiet.folder)
    with Background(quiet, "demo", "--keep", "--scripted") as demo:
        until(lambda: "Ctrl-C ends it." in demo.log, 40.0, lambda: demo.log)
        assert "each the expected one" in demo.log
        for kind in (
            "coalesced",
            "cache",
            "invalid_job",
            "unknown_model",
            "deadline_exceeded",
            "(failed), smol",
        ):
            assert kind in demo.log
        words = next(line for line in demo.log.splitlines() if "XADD" in line)
        pushed = subprocess.run(words, shell=True, capture_output=True, text=True, check=True).stdout.strip()
        assert "-" in pushed
        demo.signal(signal.SIGINT)
        assert demo.wait() == 0
    assert list(quiet.folder.glob("theo-demo-*")) == []


def test_the_demo_works_with_a_real_model(quiet: Shell) -> None:
    try:
        weights()
    except LocalModelMissing as missing:
        pytest.skip(str(missing))
    done = quiet.run("demo", timeout_s=60.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "smollm2-135m" in done.stdout


def test_a_demo_on_an_address_of_ours_deletes_its_keys(quiet: Shell, client: redis_client.Redis) -> None:
    before = set(client.scan_iter("*theo-demo-*"))
    done = quiet.run("demo", "--scripted", "--redis-url", quiet.url)
    assert (done.returncode, "each the expected one" in done.stdout) == (0, True)
    assert set(client.scan_iter("*theo-demo-*")) == before
