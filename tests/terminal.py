"""A terminal of 80 columns: what stands on it after all that was written to its standard output and error."""

import io
import re
from contextlib import ExitStack, redirect_stderr, redirect_stdout


class Terminal:
    """Knows the codes that bars use; lines do not wrap, so that one that is too long is seen."""

    def __init__(self) -> None:
        self.lines, self.row, self.column = [""], 0, 0
        self.stdout, self.stderr = _Stream(self), _Stream(self)

    def __enter__(self) -> "Terminal":
        """From here on it is this process's."""
        self._stack = ExitStack()
        self._stack.enter_context(redirect_stdout(self.stdout))
        self._stack.enter_context(redirect_stderr(self.stderr))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def screen(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)

    def feed(self, text: str) -> None:
        for code in re.findall(r"\x1b\[A|\x1b\[[\d;]*m|.|\n", text):
            if code == "\x1b[A":
                self.row -= 1
            elif code == "\r":
                self.column = 0
            elif code == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row == len(self.lines))
            elif len(code) == 1:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + code + line[self.column + 1 :]
                self.column += 1


class _Stream(io.StringIO):
    encoding = "utf-8"

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.terminal = terminal

    def fileno(self) -> int:
        """Nobody's: `os.get_terminal_size` is asked about it, and that is patched."""
        return -1

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.terminal.feed(text)
        return super().write(text)
