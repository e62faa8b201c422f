"""Between the requests and MONAI Label's endpoints: checks, threads, and one line for what goes wrong."""

from __future__ import annotations

import functools
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import anyio
import anyio.to_thread
import requests
from fastapi import BackgroundTasks, HTTPException, Request
from starlette.background import BackgroundTask

from medsegdiff.apps.label.app import LabelApp
from medsegdiff.apps.label.errors import BAD_GATEWAY, BAD_REQUEST, NOT_FOUND, SERVER_ERROR, TOO_MANY_REQUESTS, status_of
from medsegdiff.apps.label.logs import note_defect
from medsegdiff.apps.label.names import check_plain
from medsegdiff.apps.label.scoring import SCORES
from medsegdiff.errors import SpecError, find_user_error, one_line

Endpoint = Callable[..., Coroutine[Any, Any, Any]]

_NAMES = ("image", "id", "label", "tag", "session_id", "model", "method", "strategy")
_OPTIONS = ("params", "info")
# What an endpoint itself puts into a request: options of this name would replace what was checked.
_RESERVED = ("image", "model", "method", "strategy", "label", "session", "files", "images")
# What the server itself notes about an image, and reads again.
_NOTED = (SCORES, "strategy")
_IMAGE_INFO, _ARCHIVE = "/datastore/image/info", "/datastore/dataset"
_KINDS = {"/train/{model}": "train", "/scoring/{method}": "scoring", "/batch/infer/{model}": "infer"}


class Guard:
    """Makes endpoints of MONAI Label safe to offer.

    They are coroutines that work without giving way: run as they are, one inference would let all other requests
    wait. Here each runs in a thread, and inferences in one of their own, one after the other.

    Args:
        app: gives the app.
    """

    def __init__(self, app: Callable[[], LabelApp]) -> None:
        self.app = app
        self._inferences = anyio.CapacityLimiter(1)

    def wrap(self, path: str, endpoint: Endpoint) -> Endpoint:
        """An endpoint that takes the same arguments and answers user errors with a 4xx and one line."""
        limiter = self._inferences if path.startswith("/infer") else None

        @functools.wraps(endpoint)
        async def guarded(**arguments: Any) -> Any:
            try:
                self._check(path, arguments)
                for argument in arguments.values():
                    if isinstance(argument, Request):
                        await argument.body()  # which is kept, and can be had in another thread then
                reply = await anyio.to_thread.run_sync(_run, endpoint, arguments, limiter=limiter)
                if path == _ARCHIVE:  # made for this request, and left behind by MONAI Label
                    reply.background = BackgroundTask(os.unlink, reply.path)
                return reply
            except Exception as error:  # noqa: BLE001 - the answer tells of it
                # Else files that were uploaded for this request would stay.
                if isinstance(tasks := arguments.get("background_tasks"), BackgroundTasks):
                    await tasks()
                raise self._answer(error) from None

        return guarded

    def _check(self, path: str, arguments: dict[str, Any]) -> None:
        for name in _NAMES:
            given = arguments.get(name)
            if isinstance(given, str) and given:
                check_plain(name, given)
        # Proxied requests go to the DICOM store, and to nothing else that its server offers.
        if ".." in unquote(unquote(str(arguments.get("path") or ""))).replace("\\", "/").split("/"):
            msg = "got a path with '..'; allowed are addresses within the DICOM store"
            raise SpecError(msg)
        for name in ("file", "label"):
            _check_upload(arguments.get(name))
        for upload in arguments.get("files") or ():
            _check_upload(upload)
        if arguments.get("uncompress"):
            msg = "got uncompress for a session; archives are not unpacked here: upload the image itself"
            raise SpecError(msg)
        options: dict[str, Any] = {}
        for name in _OPTIONS:
            options |= _read_options(name, arguments.get(name), arguments)
        for key in _NOTED if path == _IMAGE_INFO else ():
            if key in options:
                msg = f"got {key!r} among the info of an image, which the server notes itself: leave it out"
                raise SpecError(msg)
        if path.startswith("/infer") and not any(arguments.get(name) for name in ("image", "file", "session_id")):
            msg = "got no image; name one by ?image=, or upload one as file"
            raise SpecError(msg)
        if path in _KINDS and ("params" in arguments):
            self.app().check(_KINDS[path], arguments.get("model") or arguments.get("method") or "", options)

    def _answer(self, error: Exception) -> HTTPException:
        """The answer to a request that failed."""
        user_error = find_user_error(error)
        if user_error is not None:
            return HTTPException(status_of(user_error), self._without_folders(one_line(user_error)))
        if isinstance(error, HTTPException):
            # MONAI Label answers 500 to requests that it refuses, and one of its answers names a file of the server.
            status = BAD_REQUEST if error.status_code == SERVER_ERROR else error.status_code
            if status == TOO_MANY_REQUESTS:
                return HTTPException(status, "got a task while another runs; wait for its end, or stop it by DELETE")
            return HTTPException(status, self._without_folders(str(error.detail)))
        if isinstance(error, requests.RequestException):
            return HTTPException(BAD_GATEWAY, f"the DICOM store does not answer ({type(error).__name__})")
        if type(error).__name__ in ("ImageNotFoundException", "LabelNotFoundException"):
            return HTTPException(NOT_FOUND, one_line(Exception(error.msg)))  # type: ignore[attr-defined]
        if type(error).__name__ == "MONAILabelException":
            return HTTPException(BAD_REQUEST, one_line(Exception(error.msg)))  # type: ignore[attr-defined]
        place = note_defect(error, self.app().work)
        return HTTPException(SERVER_ERROR, f"a defect of the server ({type(error).__name__}), noted in {place.name}")

    def _without_folders(self, text: str) -> str:
        """A message without the folders of the server."""
        app = self.app()
        for folder in (app.studies, str(app.work), tempfile.gettempdir()):
            text = text.replace(f"{folder.rstrip('/')}/", "")
        return text


def _run(endpoint: Endpoint, arguments: Mapping[str, Any]) -> Any:
    """Run a coroutine that waits for nothing but what it does itself."""
    coroutine = endpoint(**arguments)
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return finished.value
    coroutine.close()
    msg = f"the endpoint {inspect.getattr_static(endpoint, '__name__', endpoint)} waits for others"
    raise RuntimeError(msg)


def _check_upload(upload: Any) -> None:
    name = getattr(upload, "filename", None)
    if name:
        check_plain("file name", Path(name).name if "/" not in name and "\\" not in name else name)


def _read_options(name: str, given: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a request, which come as JSON or read already."""
    if given is None:
        return {}
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except (ValueError, RecursionError) as error:
            msg = f"got {name} that is no JSON ({error}); send an object such as {{}}"
            raise SpecError(msg) from error
    if not isinstance(given, dict):
        msg = f"got {name} of the kind {type(given).__name__}; send an object such as {{}}"
        raise SpecError(msg)
    for key in _RESERVED if name == "params" else ():
        if key in given and given[key] != arguments.get(key):
            msg = f"got {key!r} among the {name}; it belongs into the address: leave it out"
            raise SpecError(msg)
    return given
