"""The MONAI Label app: bundles as models, their training, scores and strategies."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import background_executors, processes, tasks

from medsegdiff import __version__
from medsegdiff.apps.label.bundles import RGB, ServedBundle, find_bundles
from medsegdiff.apps.label.dicom_store import CheckedDicomStore
from medsegdiff.apps.label.errors import unknown
from medsegdiff.apps.label.infer_tasks import FILES, tasks_of
from medsegdiff.apps.label.logs import note_defect
from medsegdiff.apps.label.options import DICOM_SUFFIX, read_number
from medsegdiff.apps.label.predictors import Predictors
from medsegdiff.apps.label.scoring import Disagreement
from medsegdiff.apps.label.segmentations import NAMES, SegmentationWriter, segments_of
from medsegdiff.apps.label.store import CheckedStore, tag_text
from medsegdiff.apps.label.strategies import MostUncertain
from medsegdiff.apps.label.training import FineTuning
from medsegdiff.errors import USER_ERROR_EXIT_CODE, DataError, SpecError, find_user_error, one_line
from medsegdiff.notice import RESEARCH_ONLY

logger = logging.getLogger(__name__)

MOST_CANDIDATES = 20


class LabelApp(MONAILabelApp):
    """Offers, for every bundle with weights, its segmentation, its uncertainty, candidates, training and scores.

    Args:
        app_dir: folder of this module.
        studies: a folder of images, or the address of a DICOMweb store.
        conf: "bundles" (folders, as JSON), "work" (where fine-tuned weights go), "device", and "candidates" (models
            that show single draws, for each bundle).
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        self.work = Path(conf["work"])
        self.device = conf.get("device", "auto")
        self.candidates = read_number(conf, "candidates", 3, least=0, most=MOST_CANDIDATES)
        self.bundles = find_bundles([Path(one) for one in json.loads(conf["bundles"])], work=self.work)
        self.predictors = Predictors(device=self.device)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=dict(conf),
            name="medsegdiff",
            description=f"Segmentation by diffusion models. {RESEARCH_ONLY}",
            version=__version__,
        )

    def init_datastore(self) -> Datastore:
        """The store of images and labels, which checks what goes into it."""
        if self.studies.startswith(("http://", "https://")):
            return self.init_remote_datastore()
        return CheckedStore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_remote_datastore(self) -> Datastore:
        """The DICOM store behind an address; MONAI Label knows how to reach it."""
        made = super()._init_dicomweb_datastore()
        made._client.set_http_retry_params(retry=False)  # by default, half a minute passes before it gives up
        made._observer.stop()  # of the store that is replaced by one that checks
        return CheckedDicomStore(
            client=made._client,
            search_filter=made._search_filter,
            cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or None,
            convert_to_nifti=True,
            writer=SegmentationWriter(self.bundles),
        )

    def _download_dcmqi_tools(self) -> None:
        """MONAI Label's writer of DICOM segmentations is not used; nothing is downloaded."""

    def init_infers(self) -> dict[str, Any]:
        """The models."""
        found: dict[str, Any] = {}
        for bundle in self.bundles:
            found |= tasks_of(bundle, self.predictors, candidates=self.candidates)
        return found

    def colours(self) -> dict[str, RGB]:
        """In which colour each label of the models is shown."""
        return {name: colour for task in self._infers.values() for name, colour in task.colours.items()}

    def init_trainers(self) -> dict[str, Any]:
        """Fine-tuning of each bundle."""
        return {bundle.name: FineTuning(bundle, device=self.device) for bundle in self.bundles}

    def init_scoring_methods(self) -> dict[str, Any]:
        """Disagreement between draws of each bundle that samples."""
        return {f"{bundle.name}_disagreement": Disagreement(bundle, self.predictors) for bundle in self._sampling()}

    def init_strategies(self) -> dict[str, Any]:
        """Most uncertain first for each bundle that samples, and the usual ones."""
        own = {
            f"{bundle.name}_most_uncertain": MostUncertain(bundle.name, f"{bundle.name}_disagreement", self.score_later)
            for bundle in self._sampling()
        }
        return {**own, "first": First(), "random": Random()}

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on an image.

        Args:
            request: "model", "image" (a name in the store, or the absolute path of an upload), and options of the
                model; "save_label" and "label_tag" have the result kept in the store. Of a series in a DICOM store,
                the "result_extension" ".dcm" gives a DICOM segmentation, with names and colours of its "label_info".
            datastore: in place of the app's own.

        Raises:
            UnknownNameError: there is no such model or image.
            MedSegDiffError: what request or image are unfit for.
        """
        task = self._named("model", self._infers, request.get("model"))
        store: Any = datastore or self.datastore()
        image = str(request.get("image") or "")
        uploaded = Path(image).is_absolute()
        as_dicom = request.get("result_extension") == DICOM_SUFFIX
        if as_dicom and (uploaded or not isinstance(store, CheckedDicomStore)):
            msg = "got an image that is no series of a DICOM store, which a DICOM segmentation refers to; ask for .nrrd"
            raise SpecError(msg)
        files = [Path(image)] if uploaded else store.files_of(image, task.bundle)
        as_file = {"result_extension": ".nii.gz"} if as_dicom else {}
        tag = tag_text(request.get("label_tag") or DefaultLabelTag.ORIGINAL)
        segments_of(request.get(NAMES))
        path, params = task({**request, FILES: files, **as_file})
        info = {"model": request["model"], "params": params}
        if request.get(NAMES) is not None:
            info[NAMES] = request[NAMES]
        with contextlib.ExitStack() as unless_returned:
            unless_returned.callback(Path(path).unlink)
            keep = _is_true(request.get("save_label")) and not uploaded
            label = store.save_label(image, path, tag, info) if keep else None
            if as_dicom:
                path = str(store.as_segmentation(Path(path), image, info))
            else:
                unless_returned.pop_all()
        return {"label": label or path, "tag": tag, "file": path, "params": params}

    def infer_wsi(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Whole slides are not supported.

        Raises:
            SpecError: always.
        """
        msg = "got a request for a whole slide; these models segment images and volumes: ask /infer/MODEL"
        raise SpecError(msg)

    def batch_infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> Any:
        """Run a model on many images of the store; in a process of its own, an error ends it with one line."""
        self._named("model", self._infers, request.get("model"))
        return self._run(lambda: super(LabelApp, self).batch_infer({"max_workers": 1, **request}, datastore))

    def scoring(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> Any:
        """Run a scoring method.

        Raises:
            UnknownNameError: there is no such method.
        """
        task = self._named("scoring method", self._scoring_methods, request.get("method"))
        return self._run(lambda: task(copy.deepcopy(dict(request)), datastore or self.datastore()))

    def train(self, request: Mapping[str, Any]) -> Any:
        """Run a training.

        Raises:
            UnknownNameError: there is no such trainer.
            SpecError: it was asked for within the server, whose state it would change.
        """
        task = self._named("trainer", self._trainers, request.get("model"))
        if self._server_mode:
            msg = "got run_sync for a training; a training runs in a process of its own: leave run_sync out"
            raise SpecError(msg)
        return self._run(lambda: task(copy.deepcopy(dict(request)), self.datastore()))

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The next case to label by a strategy; empty where all are labelled.

        Raises:
            UnknownNameError: there is no such strategy.
        """
        task = self._named("strategy", self._strategies, request.get("strategy") or "random")
        store = self.datastore()
        while (found := task(request, store)) and found.get("id"):
            try:
                return {**found, "path": store.get_image_uri(found["id"])}
            except DataError:
                if found["id"] in store.get_unlabeled_images():  # else the store offers it no more
                    raise
        return {}

    def check(self, kind: str, name: str, options: Mapping[str, Any]) -> None:
        """Make sure that a task for the background exists and can be done, before a process is started for it.

        Args:
            kind: "train", "scoring" or "infer".
            name: of the trainer, scoring method or model.
            options: of the request.

        Raises:
            UnknownNameError: there is no such task.
            MedSegDiffError: what its options or the store are unfit for.
        """
        if kind == "train":
            self._named("trainer", self._trainers, name).check(options, self.datastore())
        elif kind == "scoring":
            self._named("scoring method", self._scoring_methods, name).check(options)
        else:
            self._named("model", self._infers, name).options(options)

    def model_file(self, model: str, validate: bool = True) -> str | None:
        """The weights of a model, to be read only."""
        return str(self._named("model", self._infers, model).get_path())

    def score_later(self, method: str) -> None:
        """Have a scoring method run in the background, unless one waits or runs."""
        waiting = [task for task in tasks("scoring") if task["status"] in ("SUBMITTED", "RUNNING")]
        if self._server_mode and not waiting and not processes("scoring"):
            AsyncTask.run("scoring", request={"method": method}, enqueue=True)

    def stop_tasks(self) -> None:
        """End what runs in the background, and what waits there."""
        for method, executor in background_executors.items():
            executor.shutdown(wait=False, cancel_futures=True)
            if processes(method):
                AsyncTask.stop(method)
        background_executors.clear()

    def on_save_label(self, image_id: str, label_id: str) -> None:
        """Say nothing: what images are called may tell who they are of."""

    def _run(self, task: Any) -> Any:
        """Run what may take long; in a process of its own, an error ends it with one line in place of a traceback."""
        if self._server_mode:
            return task()
        try:
            return task()
        except Exception as error:  # noqa: BLE001 - the process ends here
            user_error = find_user_error(error)
            # Standard output is what the server shows of the task.
            if user_error is None:
                place = note_defect(error, self.work)
                typer.echo(f"error: a defect of the server ({type(error).__name__}), noted in {place.name}")
            else:
                typer.echo(f"error: {one_line(user_error)}")
            raise SystemExit(USER_ERROR_EXIT_CODE if user_error else 1) from None

    def _sampling(self) -> list[ServedBundle]:
        return [bundle for bundle in self.bundles if not self._infers[bundle.name].supervised]

    def _named(self, kind: str, found: Mapping[str, Any], name: object) -> Any:
        if name not in found:
            raise unknown(kind, name, sorted(found))
        return found[str(name)]


def _is_true(value: object) -> bool:
    return str(value).lower() in ("true", "1", "yes")
