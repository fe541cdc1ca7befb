"""What goes up is the allow-list alone, and is read back; a Hub that fails costs neither files nor clarity."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from honest_persona.base.errors import UserError
from honest_persona.config.load import load_config
from honest_persona.hub import upload as upload_module
from honest_persona.hub.export import export
from honest_persona.hub.push import check_upload, push, push_after_training
from honest_persona.modeling.adapters.card import AdapterCard
from honest_persona.modeling.adapters.folder import seal_folder
from honest_persona.modeling.adapters.published import resolve
from honest_persona.persona.product import load_honest_persona
from tests.hub.conftest import TOKEN
from tests.hub.loopback import HANG, LOST, RESET, WRONG_BYTES
from tests.tiny import conversation

ADAPTER = {"adapter_model.safetensors", "adapter_config.json", "honest_persona.json"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
WHOLE = ADAPTER | TOKENIZER | {"manifest.json", "eval/results.json", "README.md"}


@pytest.fixture(autouse=True)
def staged_in(tmp_path, monkeypatch):
    """Where folders are staged."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def contents(folder: Path) -> dict[str, str]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def kept_folder(staged_in: Path, message: str) -> Path:
    """The staged folder, which the message names and which alone is left."""
    (folder,) = staged_in.iterdir()
    assert f"all files are kept in {folder}" in message
    return folder


class TestWhatGoesUp:
    def test_exactly_the_allow_list_and_it_is_equal(self, hub, run_folder, staged_in, capfd):
        before = contents(run_folder)
        pushed = push(run_folder, "user/name")
        assert set(hub.files("user/name")) == WHOLE == set(pushed.files)
        for name in WHOLE - {"README.md"}:
            assert hub.files("user/name")[name] == (run_folder / name).read_bytes(), name
        assert contents(run_folder) == before, "the adapter's folder is only read"
        assert list(staged_in.iterdir()) == [], "nothing is left behind"
        assert pushed.url.startswith(f"{hub.url}/user/name/commit/")
        assert {"training_args.bin", "checkpoint-8", "metrics.jsonl", "env.json", ".env"} <= set(pushed.left_out)
        everything = (
            b"".join(hub.files("user/name").values()) + str(pushed).encode() + "".join(capfd.readouterr()).encode()
        )
        assert TOKEN.encode() not in everything
        assert sum("/commit/" in request for request in hub.requests) == 1

    def test_the_report_only_where_it_is_asked_for_and_gone_once_it_is_not(self, hub, run_folder):
        push(run_folder, "user/name", report=True)
        assert set(hub.files("user/name")) == WHOLE | {"eval/report.html"}
        push(run_folder, "user/name")
        assert set(hub.files("user/name")) == WHOLE

    def test_other_files_of_the_repo_stay_and_are_named(self, hub, run_folder):
        hub.create("user/name", **{"notes.txt": b"mine", "README.md": b"old"})
        assert push(run_folder, "user/name").others == ("notes.txt",)
        assert hub.files("user/name")["notes.txt"] == b"mine"
        assert hub.files("user/name")["README.md"] != b"old"

    def test_a_branch(self, hub, run_folder):
        push(run_folder, "user/name", revision="v2")
        assert set(hub.files("user/name", "v2")) == WHOLE
        assert hub.files("user/name") == {}

    def test_private(self, hub, run_folder, staged_in):
        push(run_folder, "user/private", private=True)
        assert hub.private["user/private"]
        push(run_folder, "user/public")
        assert not hub.private["user/public"]
        hub.create("user/open")
        with pytest.raises(UserError, match="is there and public"):
            push(run_folder, "user/open", private=True)
        assert hub.files("user/open") == {}

    def test_a_dry_run_asks_the_hub_nothing(self, hub, run_folder, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        pushed = push(run_folder, "user/name", dry_run=True)
        assert hub.requests == []
        assert set(contents(pushed.folder)) == WHOLE == set(pushed.files)

    def test_pushing_again_makes_no_commit(self, hub, run_folder):
        first = push(run_folder, "user/name")
        assert push(run_folder, "user/name").url == first.url
        assert sum("/commit/" in request for request in hub.requests) == 1


class TestWhatIsRefused:
    def refused(self, hub, folder, match, **arguments):
        with pytest.raises(UserError, match=match) as caught:
            push(folder, "user/name", **arguments)
        assert hub.requests == [], "before anything is sent"
        return str(caught.value)

    def test_secrets_by_name_and_never_by_value(self, hub, run_folder, edit_card, staged_in):
        canary = "hf_" + "x7" * 12
        edit_card(run_folder, default_intervention=f"Be honest. {canary}")
        message = self.refused(hub, run_folder, "honest_persona.json: a Hugging Face token")
        assert "README.md: a Hugging Face token" in message
        assert canary not in message
        assert list(staged_in.iterdir()) == [], "no copy of a secret is left"

    def test_the_values_of_env_json_and_of_the_environment(self, hub, run_folder, edit_card, monkeypatch):
        edit_card(run_folder, default_intervention="canary-of-env-json")
        message = self.refused(hub, run_folder, "honest_persona.json: the value of WANDB_API_KEY")
        assert "canary" not in message
        monkeypatch.setenv("SOME_API_KEY", "canary-of-the-environment")
        edit_card(run_folder, default_intervention="canary-of-the-environment")
        message = self.refused(hub, run_folder, "honest_persona.json: the value of SOME_API_KEY")
        assert "canary" not in message
        edit_card(run_folder, default_intervention="canary-of-nothing")
        assert push(run_folder, "user/name").url, "negative control: the like of it is no secret"

    def test_a_link_may_point_to_anything(self, hub, run_folder):
        (run_folder / "tokenizer.json").unlink()
        (run_folder / "tokenizer.json").symlink_to(run_folder / "env.json")
        self.refused(hub, run_folder, "tokenizer.json is a link")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, hub, run_folder, value):
        path = run_folder / "adapter_model.safetensors"
        weights = load_file(path)
        next(iter(weights.values()))[0, 0] = value
        save_file(weights, path, {"format": "pt"})
        seal_folder(run_folder)  # as a training that went wrong would have saved it
        self.refused(hub, run_folder, "1 of its weights hold numbers that are not finite", dry_run=True)
        with pytest.raises(UserError, match="not finite"):
            export(run_folder, run_folder / "out", "alora")

    def test_a_damaged_adapter(self, hub, run_folder):
        raw = bytearray((run_folder / "adapter_model.safetensors").read_bytes())
        raw[-5] ^= 4
        (run_folder / "adapter_model.safetensors").write_bytes(raw)
        self.refused(hub, run_folder, "adapter_model.safetensors is not what was written", dry_run=True)

    def test_half_an_adapter(self, hub, run_folder):
        (run_folder / "adapter_config.json").unlink()
        self.refused(hub, run_folder, "adapter_config.json is missing")

    def test_no_adapter_no_token_no_name(self, hub, run_folder, tmp_path, monkeypatch):
        self.refused(hub, tmp_path / "nowhere", "no honest_persona.json")
        with pytest.raises(UserError, match="--repo: 'name' is no name of a repo"):
            push(run_folder, "name")
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(upload_module, "get_token", lambda: None)
        self.refused(hub, run_folder, "put HF_TOKEN, one that may write, into env.json")

    def test_a_base_model_that_nobody_else_has(self, hub, run_folder, edit_card):
        edit_card(run_folder, base_model="/data/models/llama")
        self.refused(hub, run_folder, "'/data/models/llama' is a folder of this machine")
        push(run_folder, "user/name", base_model="user/llama")
        assert b"/data/models" not in b"".join(hub.files("user/name").values())
        assert b"base_model: user/llama" in hub.files("user/name")["README.md"]

    @pytest.mark.parametrize("base", ["/data/mine.Q4_K_M.gguf", "models/mine.gguf"])
    def test_a_base_model_in_gguf(self, hub, run_folder, edit_card, base):
        """A relative path looks like a Hub id where the file is gone; the original model has other weights."""
        edit_card(run_folder, base_model=base)
        self.refused(hub, run_folder, f"'{base}' is a file of this machine.*Upload its conversion.*will not do")
        with pytest.raises(UserError, match="is no Hub id"):
            push(run_folder, "user/name", base_model="user/mine.gguf")
        pushed = push(run_folder, "user/name", base_model="user/mine")
        assert f"user/mine must hold the conversion of {base}." in " ".join(pushed.notices)
        assert b"base_model: user/mine" in hub.files("user/name")["README.md"]


STEPS = ["POST /api/repos/create", "POST .*/preupload/", "POST .*/batch", "PUT /lfs/", "POST .*/commit/", "/resolve/"]


class TestFaultsThatPass:
    @pytest.mark.parametrize("how", [503, RESET], ids=str)
    @pytest.mark.parametrize("request_", STEPS)
    def test_it_tries_again(self, hub, run_folder, how, request_):
        hub.fail(request_, how, times=2)
        push(run_folder, "user/name")
        assert set(hub.files("user/name")) == WHOLE
        assert hub.waits_s in ([1, 2], [1]), "growing waits; a download's first retry is huggingface_hub's, at once"

    def test_a_slow_answer(self, hub, run_folder, monkeypatch):
        monkeypatch.setattr(upload_module, "_TIMEOUT_S", 0.3)
        hub.fail("POST .*/commit/", HANG, times=1)
        push(run_folder, "user/name")
        assert set(hub.files("user/name")) == WHOLE

    def test_an_answer_that_is_lost_after_the_commit(self, hub, run_folder):
        hub.fail("POST .*/commit/", LOST, times=1)
        push(run_folder, "user/name")
        assert set(hub.files("user/name")) == WHOLE
        assert sum("/commit/" in request for request in hub.requests) == 1, "what is there is not sent again"


class TestFaultsThatStay:
    def failed(self, hub, run_folder, staged_in, repo="user/name") -> str:
        before = contents(run_folder)
        with pytest.raises(UserError) as caught:
            push(run_folder, repo)
        message = str(caught.value)
        assert message.startswith(f"push to {repo}: ")
        assert TOKEN not in message
        assert contents(run_folder) == before
        assert set(contents(kept_folder(staged_in, message))) == WHOLE
        return message

    @pytest.mark.parametrize("how", [500, RESET], ids=str)
    @pytest.mark.parametrize("request_", ["POST .*/commit/", "POST /api/repos/create", "PUT /lfs/"])
    def test_nothing_was_uploaded(self, hub, run_folder, staged_in, how, request_):
        hub.fail(request_, how)
        assert "nothing was uploaded" in self.failed(hub, run_folder, staged_in)
        assert hub.files("user/name") == {} if "user/name" in hub.branches else True
        hub.mend()
        shutil.rmtree(next(staged_in.iterdir()))
        push(run_folder, "user/name")
        assert set(hub.files("user/name")) == WHOLE, "the same command later"

    def test_the_lfs_file_is_named(self, hub, run_folder, staged_in):
        hub.fail("PUT /lfs/", 500)
        assert "Error while uploading 'adapter_model.safetensors'" in self.failed(hub, run_folder, staged_in)

    def test_wrong_bytes(self, hub, run_folder, staged_in):
        hub.fail("GET .*/resolve/.*/adapter_model.safetensors", WRONG_BYTES)
        message = self.failed(hub, run_folder, staged_in)
        assert "what the Hub gives back is not what was uploaded:\nadapter_model.safetensors: SHA-256 " in message
        assert f"all files were uploaded as {hub.url}/user/name/commit/" in message

    def test_not_read_back(self, hub, run_folder, staged_in):
        hub.fail("HEAD .*/resolve/.*", 500)
        assert "but not read back" in self.failed(hub, run_folder, staged_in)

    def test_a_token_without_rights_is_told_at_once(self, hub, run_folder, staged_in, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_" + "AnotherTokenThanTheHubs")
        message = self.failed(hub, run_folder, staged_in)
        assert "401" in message
        assert "HF_TOKEN must be a token that may write there" in message
        assert hub.waits_s == [], "that does not pass"

    def test_offline_is_told_at_once(self, hub, run_folder, staged_in, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert "offline mode" in self.failed(hub, run_folder, staged_in)
        assert hub.waits_s == []


class TestLoading:
    def test_by_its_name(self, hub, run_folder):
        push(run_folder, "user/name")
        loaded = load_honest_persona("user/name", device="cpu")
        local = load_honest_persona(run_folder, device="cpu")
        arguments = conversation(1), None, 8
        assert loaded.review(*arguments) == local.review(*arguments)
        assert loaded.card == local.card

    def test_nothing_but_the_allow_list_is_downloaded(self, hub, run_folder):
        push(run_folder, "user/name", report=True)
        commit = hub.branches["user/name"]["main"]
        hub.commits[commit]["pytorch_model.bin"] = b"pickle"
        folder = resolve("user/name")
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == WHOLE
        hub.fail(".*", 500)
        assert resolve("user/name") == folder, "a Hub out of reach: the cache"

    def test_a_download_is_checked(self, hub, run_folder):
        push(run_folder, "user/name", base_model="user/other")
        folder = resolve("user/name")
        assert AdapterCard.load(folder).base_model == "user/other", "the manifest is that of what was published"
        commit = hub.branches["user/name"]["main"]
        raw = bytearray(hub.commits[commit]["tokenizer.json"])
        raw[1000] ^= 1
        hub.commits[commit]["tokenizer.json"] = bytes(raw)
        shutil.rmtree(folder.parents[1])
        with pytest.raises(UserError, match=r"tokenizer\.json is not what was written"):
            load_honest_persona("user/name")

    def test_no_such_repo(self, hub, tmp_path, monkeypatch):
        with pytest.raises(UserError, match="'user/none' is neither a folder here nor an adapter of the Hub"):
            load_honest_persona("user/none")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "checkpoints").mkdir()
        asked = len(hub.requests)
        with pytest.raises(UserError, match=r"no honest_persona\.json"):
            load_honest_persona("checkpoints/my-rn")
        assert len(hub.requests) == asked, "a mistyped path is no question to the Hub"


class TestAfterTraining:
    def config(self, **values):
        config = load_config(None, ["--model", "builtin:tiny"])
        return config.model_copy(update={"trainer": {**config.trainer, **values}})

    def test_a_run_that_asks_for_it(self, hub, run_folder, capsys):
        config = self.config(push_to_hub=True, hub_model_id="user/name", hub_private_repo=True)
        check_upload(config)
        push_after_training(config, run_folder)
        assert set(hub.files("user/name")) == WHOLE
        assert hub.private["user/name"]
        assert f"pushed: {hub.url}/user/name/commit/" in capsys.readouterr().out

    def test_a_hub_out_of_reach_fails_no_run(self, hub, run_folder, capsys):
        hub.fail(".*", RESET)
        push_after_training(self.config(push_to_hub=True, hub_model_id="user/name", hub_revision="v2"), run_folder)
        command = f"python -m honest_persona push --adapter {run_folder} --repo user/name --revision v2\n"
        assert capsys.readouterr().out.endswith(f"\nnothing is lost; to push it later: {command}")

    def test_a_run_that_does_not_ask_for_it_and_other_ranks(self, hub, run_folder, monkeypatch):
        push_after_training(self.config(), run_folder)
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        push_after_training(self.config(push_to_hub=True, hub_model_id="user/name"), run_folder)
        assert hub.requests == []

    def test_what_cannot_work_is_told_before_the_run(self):
        check_upload(self.config())
        for repo in (None, "name", "a/b/c"):
            with pytest.raises(UserError, match="hub_model_id: push_to_hub needs a repo as user/name"):
                check_upload(self.config(push_to_hub=True, hub_model_id=repo))
        wanted = self.config(push_to_hub=True, hub_model_id="user/name")
        with pytest.raises(UserError, match="push_to_hub: objective reward makes a reward model, and push publishes"):
            check_upload(wanted.model_copy(update={"objective": "reward"}))
        config = wanted.model_copy(update={"model": "/data/llama"})
        with pytest.raises(UserError, match="is a folder of this machine"):
            check_upload(config)
