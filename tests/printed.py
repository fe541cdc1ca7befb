"""What a function prints, as text or on a terminal of a given width and encoding."""

import io
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any
from unittest import mock

from honest_persona.base.console import prepare_streams


def printed(function: Callable[..., Any], *args: Any, columns: int | None = None, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    with (
        redirect_stdout(io.TextIOWrapper(raw, encoding=encoding)) as out,
        mock.patch.dict(os.environ, {"COLUMNS": str(columns)} if columns else {}),
    ):
        prepare_streams()
        function(*args)
        out.flush()
        return raw.getvalue().decode(encoding)
