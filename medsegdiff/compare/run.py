"""A whole study: train what is not trained, measure what is not measured, write tables, pictures and the report."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from medsegdiff.compare import tasks
from medsegdiff.compare.engines import Engine
from medsegdiff.compare.plan import Plan
from medsegdiff.compare.runs import DONE
from medsegdiff.compare.snapshots import choose_cases, runs_to_show, snapshot_path
from medsegdiff.compare.tables import failures, write_tables
from medsegdiff.compare.tasks import Task
from medsegdiff.data.writer import make_folder
from medsegdiff.errors import SpecError, find_user_error, one_line
from medsegdiff.files import written_whole

TRAIN, MEASURE, PICTURE = "train", "measure", "picture"
RETRIES = 2


class StudyRun:
    """Does what is left to do of a study.

    A task whose worker dies is done again by another, up to twice. One that fails otherwise fails its run: the tables
    say so, ensembles with it fail too, and everything else goes on; another call of the study tries it again.

    Args:
        plan: of the study.
        engine: does the tasks; closing it is left to the caller.
        say: takes a line for the user.
    """

    def __init__(self, plan: Plan, engine: Engine, *, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.engine = engine
        self._say = say
        self._reasons: dict[str, str] = {}

    def do(self) -> Mapping[str, str]:
        """Do everything and write the tables, the pictures and the report.

        Returns:
            Why runs failed, by their labels; empty where all is well.

        Raises:
            SpecError: another study is under way in the folder.
            DataError: nothing can be written there.
        """
        folder = self.plan.folder
        make_folder(folder)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            msg = f"{folder}: another study is under way there; wait for it, or choose another --output"
            raise SpecError(msg) from error
        try:
            with written_whole(folder / "study.yaml", advice="choose another --output") as partial:
                partial.write_text(self.plan.study.text, encoding="utf-8")
            self._do_tasks(self._first_tasks())
            self._write_tables()
            self._do_tasks(self._picture_tasks())
            self._report()
        finally:
            lock.release()
        return failures(self.plan, self._reasons)

    def _first_tasks(self) -> list[Task]:
        return [
            Task(MEASURE if run.members or run.state == DONE else TRAIN, run)
            for run in self.plan.runs
            if run.state != DONE or self.plan.missing(run)
        ]

    def _picture_tasks(self) -> list[Task]:
        """Sample once more what is to be shown, where that is not kept yet."""
        folder, chosen = self.plan.folder / "pictures", choose_cases(self.plan)
        wanted = {run: [snapshot_path(folder, run, one) for one in chosen] for run in runs_to_show(self.plan)}
        for path in set(folder.glob("*.npz")) - {path for paths in wanted.values() for path in paths}:
            path.unlink()  # of another case, which is no longer the best, the median or the worst
        return [Task(PICTURE, run) for run, paths in wanted.items() if not all(path.is_file() for path in paths)]

    def _do_tasks(self, todo: list[Task]) -> None:
        if not todo:
            return
        queue, pending = deque(todo), dict[Future[Any], Task]()
        with tqdm(total=len(todo), unit="task", desc=f"study {self.plan.study.name}") as bar:
            while queue or pending:
                while len(pending) < self.engine.workers and (task := self._next(queue)):
                    bar.set_postfix_str(task.name)
                    pending[self._submit(task)] = task
                if not pending:
                    bar.update(len(queue))
                    return  # what is left are ensembles whose members failed
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    task = pending.pop(future)
                    further = self._finish(task, future)
                    queue.extendleft(further)
                    bar.total = (bar.total or 0) + len(further)
                    bar.update()

    def _next(self, queue: deque[Task]) -> Task | None:
        """The first task that waits for no other, taken out of the queue."""
        for task in list(queue):
            if task.kind == MEASURE and task.run.state != DONE:
                continue
            queue.remove(task)
            if task.kind != MEASURE or self.plan.missing(task.run):
                return task
        return None

    def _submit(self, task: Task) -> Future[Any]:
        bars = self.engine.workers == 1
        if task.kind == PICTURE:
            chosen = choose_cases(self.plan)
            return self.engine.submit(tasks.picture, self.plan, task.run, chosen, self.plan.folder / "pictures")
        return self.engine.submit(tasks.train if task.kind == TRAIN else tasks.measure, self.plan, task.run, bars)

    def _finish(self, task: Task, future: Future[Any]) -> list[Task]:
        """Note what became of a task, and what can be done after it."""
        error = future.exception()
        if error is not None and self.engine.is_death(error) and task.attempt <= RETRIES:
            return [replace(task, attempt=task.attempt + 1)]
        if error is not None:
            self._fail(task, error)
        elif task.kind == TRAIN and not future.result():
            self._say(f"failed: {task.name}: {task.run.record('failed').get('reason')}; see {task.run.log}")
        self._write_tables()
        return [Task(MEASURE, task.run)] if task.kind == TRAIN and error is None and future.result() else []

    def _fail(self, task: Task, error: BaseException) -> None:
        user_error = find_user_error(getattr(error, "cause", None) or error)
        reason = one_line(user_error) if user_error else f"{type(error).__name__}: {one_line(error)}"
        if self.engine.is_death(error):
            reason = f"{task.attempt} workers died of it, mostly for want of memory; give fewer --workers"
        self._reasons[task.run.hash] = f"{task.kind}: {reason}"
        if user_error is None and task.run.folder.is_dir():
            import traceback

            with task.run.log.open("a", encoding="utf-8") as log:
                log.writelines(traceback.format_exception(error))
        self._say(f"failed: {task.name}: {reason}")

    def _write_tables(self) -> None:
        write_tables(self.plan, self._reasons)

    def _report(self) -> None:
        from medsegdiff.compare.analysis.report import write_report

        self._say(f"wrote {write_report(self.plan.folder)}")


def shared_paths(plan: Plan) -> list[Path]:
    """What workers elsewhere must see."""
    return [plan.study.bundle, *([plan.study.dataset_dir] if plan.study.dataset_dir else []), plan.folder]
