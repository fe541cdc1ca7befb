"""`push_to_hub` with `hub_strategy: every_save`: checkpoints' adapters are uploaded during the training."""

import threading
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from honest_persona.config.keys import RunConfig
from honest_persona.hub.push import push_run


class PushCheckpoints(TrainerCallback):
    """Pushes the adapter of each checkpoint from a thread of the first rank; the training never waits for it.

    A checkpoint that is saved during an upload is not uploaded; the next save or the end of the run is.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.upload: threading.Thread | None = None

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero or (self.upload is not None and self.upload.is_alive()):
            return
        folder = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
        # a daemon thread: a run that must end does not wait for the Hub
        self.upload = threading.Thread(target=push_run, args=(self.config, folder), daemon=True)
        self.upload.start()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Wait, so that the finished adapter is uploaded after the last checkpoint's."""
        if self.upload is not None:
            self.upload.join()


def upload_callbacks(config: RunConfig) -> list[TrainerCallback]:
    wanted = config.trainer.get("push_to_hub") and config.trainer.get("hub_strategy") == "every_save"
    return [PushCheckpoints(config)] if wanted else []
