"""`trainer.train()` one optimizer step at a time, so that several trainers can take turns in one process.

The loop that is timed is the Trainer's own, unchanged: it runs in a thread of its own, and a callback at the end of
each step hands over and waits. Only one thread is ever awake. A turn is what lies between two ends of steps: the log
line of the last step, the batches, forward and backward passes, clipping, the optimizer's step.
"""

import threading
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PrinterCallback, Trainer, TrainerCallback


class StepwiseTraining:
    """Turns of one trainer. What it raises comes out of the turn in which it happens."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._around: AbstractContextManager[Any] = nullcontext()
        self._measuring = ExitStack()
        self._error: BaseException | None = None
        self.stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_HandOver(self))

    def turn(self, around: AbstractContextManager[Any] | None = None) -> float:
        """One optimizer step. Returns how many seconds it took.

        Args:
            around: is entered and left inside the training thread: PyTorch's modes and profilers are
                per thread.
        """
        self._around = around or nullcontext()
        if self._thread.ident is None:
            self._thread.start()
        synchronize(self.trainer)
        start = time.perf_counter()
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error
        synchronize(self.trainer)
        return time.perf_counter() - start

    def finish(self) -> None:
        """Let `train()` return, whether or not all its steps have been taken."""
        self.stopping, self._around = True, nullcontext()
        self._go.release()
        self._thread.join()
        if self._error is not None:
            raise self._error

    @property
    def losses(self) -> list[float]:
        """Of each step, as the Trainer logs it; complete after `finish`."""
        return [line["loss"] for line in self.trainer.state.log_history if "loss" in line]

    def _run(self) -> None:
        try:
            self._wait()
            self.trainer.train()
        except BaseException as error:
            self._error = error
        finally:
            self._measuring.close()
            self._done.release()

    def _wait(self) -> None:
        self._go.acquire()
        self._measuring.enter_context(self._around)

    def hand_over(self) -> None:
        self._measuring.close()
        self._done.release()
        self._wait()


class _HandOver(TrainerCallback):
    def __init__(self, turns: StepwiseTraining) -> None:
        self.turns = turns

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turns.hand_over()
        control.should_training_stop |= self.turns.stopping


def synchronize(trainer: Trainer) -> None:
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize(trainer.args.device)


class AllocatorPeak(AbstractContextManager["AllocatorPeak"]):
    """The most bytes that PyTorch's CPU allocator holds inside, above what it held at the start.

    What `torch.cuda.max_memory_allocated` is for a GPU: tensors and operators' scratch space, the freed ones taken off
    at once. What the C library keeps back of freed memory is not in it, so it does not depend on the machine.
    """

    peak_bytes: int

    def __enter__(self) -> "AllocatorPeak":
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)
        recorded: Any = self._profile.profiler
        events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
        held = self.peak_bytes = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            self.peak_bytes = max(self.peak_bytes, held)
