"""Progress report of a study in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashpot.comparison.progress import StudyProgress, item_label, skipped_text
from dashpot.utils.terminal import printable

if TYPE_CHECKING:
    from rich.progress import TaskID


class LiveProgress(StudyProgress):
    """Progress report with a bar for each worker and one for the study, and a line per finished item."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(highlight=False),
            expand=True,
            transient=True,
        )
        self._bars: dict[int, TaskID] = {}

    def begin(self, items: int, steps: int) -> None:
        super().begin(items, steps)
        self._study = self.bars.add_task(f"{items} items", total=1.0, note="")
        self.bars.start()

    def skip(self, items: int) -> None:
        super().skip(items)
        self.note(skipped_text(items, self.estimate.items))
        self._draw()

    def start(self, key: str, steps_done: int = 0, worker: int = 0) -> None:
        super().start(key, steps_done, worker)
        if worker not in self._bars:
            self._bars[worker] = self.bars.add_task("", total=self.estimate.steps, note="")
        self.bars.reset(self._bars[worker], completed=steps_done, description=item_label(key), note="", visible=True)

    def step(self, steps_done: int, worker: int = 0) -> None:
        super().step(steps_done, worker)
        if worker in self._bars:
            self.bars.update(self._bars[worker], completed=steps_done)
        self._draw()

    def interval(self, text: str, worker: int = 0) -> None:
        if worker in self._bars:
            self.bars.update(self._bars[worker], note=text)

    def finish(self, key: str, text: str, worker: int = 0) -> None:
        super().finish(key, text, worker)
        self._line(key, text)
        self._draw()

    def drop(self, worker: int = 0) -> None:
        super().drop(worker)
        if worker in self._bars:
            self.bars.update(self._bars[worker], visible=False)

    def note(self, text: str) -> None:
        self.bars.console.print(printable(text), markup=False)

    def close(self) -> None:
        self.bars.stop()

    def _line(self, key: str, text: str) -> None:
        self.bars.console.print(printable(f"{item_label(key):<22} {text}"), markup=False)

    def _draw(self) -> None:
        note = f"{self.estimate.finished}/{self.estimate.items}  {self.time_left()}"
        self.bars.update(self._study, completed=self.estimate.fraction, note=note)
