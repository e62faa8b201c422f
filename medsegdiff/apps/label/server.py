"""The server: MONAI Label's endpoints and viewer, over a store of images."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medsegdiff.apps.label.bundles import own_bundles
from medsegdiff.apps.label.environment import require_monailabel
from medsegdiff.apps.label.logs import WithoutNames, quiet
from medsegdiff.data.writer import make_folder
from medsegdiff.errors import DataError, SpecError, one_line
from medsegdiff.notice import RESEARCH_ONLY

if TYPE_CHECKING:
    from fastapi import FastAPI

WORK_FOLDER = ".medsegdiff"


@dataclass(frozen=True)
class LabelServer:
    """What the server is started with.

    Attributes:
        studies: a folder of images, or the address of a DICOMweb store.
        bundles: bundles, or folders of bundles; those beside the package where none is given.
        work: where fine-tuned weights and caches go; by default `.medsegdiff` in the folder of images, or a folder in
            the user's cache.
        device: "auto", "cpu", "cuda" or what else torch knows.
        candidates: how many models of each bundle show single draws.
        host: address to listen at.
        port: likewise.
    """

    studies: str
    bundles: Sequence[Path] = ()
    work: Path | None = None
    device: str = "auto"
    candidates: int = 3
    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def is_remote(self) -> bool:
        """Whether the images are in a DICOM store."""
        return self.studies.startswith(("http://", "https://"))

    @property
    def address(self) -> str:
        """The page to open: the viewer, or without a DICOM store, which it needs, what programs can ask for."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{host}:{self.port}/{'ohif/' if self.is_remote else 'docs'}"

    def check_port(self) -> None:
        """Make sure that the port is free, before anything is loaded.

        Raises:
            SpecError: it is not, or this machine has no such address.
        """
        try:
            found = socket.getaddrinfo(self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, place = found[0]
            with socket.socket(family, kind, protocol) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(place)
        except OSError as error:
            msg = (
                f"got --host {self.host} and --port {self.port}, which cannot be listened at ({error.strerror}); "
                "stop what does so, or give others"
            )
            raise SpecError(msg) from error

    def prepare(self) -> None:
        """Set MONAI Label up for this process and for those that it starts, and load the app.

        Raises:
            SpecError: MONAI Label is not installed, or there is no such device.
            DataError: no such folder of images, an address without a host, or no bundle with weights.
        """
        require_monailabel()
        quiet()
        if not self.is_remote and not (self.studies and Path(self.studies).is_dir()):
            given = self.studies or "an empty name"
            msg = f"{given}: there is no such folder; give --studies a folder of images or a DICOMweb address"
            raise DataError(msg)
        if self.is_remote and not urlsplit(self.studies).netloc:
            msg = f"{self.studies}: got an address without a host; give one such as http://127.0.0.1:8042/dicom-web"
            raise DataError(msg)
        from medsegdiff.inferers.loading import resolve_device

        resolve_device(self.device)
        studies = self.studies.rstrip("/") if self.is_remote else str(Path(self.studies).resolve())
        work = make_folder((self.work or _default_work(studies)).resolve())
        folders = [str(Path(one).resolve()) for one in self.bundles or (own_bundles(),)]
        values: dict[str, Any] = {
            "MONAI_LABEL_APP_DIR": str(Path(__file__).parent),
            "MONAI_LABEL_STUDIES": studies,
            "MONAI_LABEL_APP_CONF": {
                "bundles": json.dumps(folders),
                "work": str(work),
                "device": self.device,
                "candidates": str(self.candidates),
            },
            "MONAI_LABEL_SERVER_PORT": self.port,
            "MONAI_LABEL_SESSION_PATH": str(work / "sessions"),
            "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(work / "dicom"),
            # Scoring takes the cores from whoever waits for a segmentation: it runs when it is asked for.
            "MONAI_LABEL_AUTO_UPDATE_SCORING": False,
        }
        if "MONAI_LABEL_DICOMWEB_SEARCH_FILTER" not in os.environ:
            values["MONAI_LABEL_DICOMWEB_SEARCH_FILTER"] = {}  # by default it would look for CT only
        for name, value in values.items():
            os.environ[name] = value if isinstance(value, str) else json.dumps(value)
        from monailabel.config import settings

        for name, value in values.items():
            setattr(settings, name, value)
        from monailabel.interfaces.utils.app import app_instance

        app_instance()

    def trouble(self) -> str | None:
        """Why the images cannot be listed, which may pass where a DICOM store is to be started yet."""
        from monailabel.interfaces.utils.app import app_instance

        try:
            app_instance().datastore().list_images()
        except DataError as error:
            return one_line(error)
        return None

    def build(self) -> FastAPI:
        """The application, once `prepare` has been called."""
        from fastapi import FastAPI
        from fastapi.middleware.cors import CORSMiddleware
        from monailabel.config import settings
        from monailabel.endpoints import (
            activelearning,
            batch_infer,
            datastore,
            infer,
            info,
            login,
            model,
            proxy,
            scoring,
            session,
            train,
        )
        from monailabel.interfaces.utils.app import app_instance

        from medsegdiff.apps.label.formats import with_dicom_segmentations
        from medsegdiff.apps.label.guard import Guard
        from medsegdiff.apps.label.viewer import Viewer

        @asynccontextmanager
        async def started(_: FastAPI) -> AsyncIterator[None]:
            app_instance().server_mode(True)
            app_instance().on_init_complete()
            yield
            app_instance().stop_tasks()

        app = FastAPI(title=f"medsegdiff label. {RESEARCH_ONLY}", lifespan=started)
        if settings.MONAI_LABEL_CORS_ORIGINS:
            origins = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
            app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
        guard = Guard(app_instance)
        modules = [info, model, infer, batch_infer, train, activelearning, scoring, datastore, session]
        modules += [proxy] if self.is_remote else []
        modules += [login] if settings.MONAI_LABEL_AUTH_ENABLE else []
        for module in modules:
            for route in module.router.routes:
                # Weights are changed by training only, which keeps those that were there.
                methods = set(route.methods) & {"GET", "HEAD"} if module is model else set(route.methods)
                endpoint = with_dicom_segmentations(route.endpoint) if module is infer else route.endpoint
                if methods:
                    app.add_api_route(
                        route.path,
                        guard.wrap(route.path, endpoint),
                        methods=sorted(methods),
                        summary=route.summary,
                        tags=list(route.tags),
                        include_in_schema=route.include_in_schema,
                        response_model=None,
                    )
        viewer = Viewer(app_instance().colours())
        app.add_api_route("/ohif/{path:path}", viewer.file, include_in_schema=False, response_model=None)
        return app

    def serve(self) -> None:
        """Serve until the process is stopped."""
        import uvicorn

        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handler.addFilter(WithoutNames("" if self.is_remote else str(Path(self.studies).resolve()), self.studies))
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
        uvicorn.run(
            self.build(), host=self.host, port=self.port, log_config=None, access_log=False, timeout_graceful_shutdown=5
        )


def _default_work(studies: str) -> Path:
    if studies.startswith(("http://", "https://")):
        key = hashlib.sha256(studies.encode()).hexdigest()[:16]
        return Path.home() / ".cache" / "medsegdiff" / "label" / key
    return Path(studies) / WORK_FOLDER
