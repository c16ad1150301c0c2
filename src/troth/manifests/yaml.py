"""Turns YAML or JSON text into documents with line numbers; a bad document affects only itself.

The stream is split at its document markers first and each piece is parsed alone, so a syntax error
ends at the next ``---``. That is sound because YAML forbids a marker at the start of a line inside
any scalar. JSON is read as YAML.

A source of Helm, SOPS or OpenShift that isn't a manifest yet gets one problem that says so, instead
of a dozen irrelevant ones.
"""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import yaml

from troth.errors import InputError, Location, Problem
from troth.kube.wire import JSON_TOKEN
from troth.manifests.compose import Composer

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKER = re.compile(rb"^(?:---|\.\.\.)(?=[ \t\n]|\Z)", re.MULTILINE)
_DIRECTIVES_ONLY = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n|%[^\n]*\n)*(?:%[^\n]*|#[^\n]*)?")
_JSON = re.compile(r"(?:---)?\s*\{")
_JSON_SURROGATES = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
)
_PATH_STEP = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")
_DEFAULT_HINT = "correct the YAML; nothing of this document is used"
_HINTS = {
    "mapping values are not allowed": "check the indentation, and quote a value that contains ': '",
    "could not find expected ':'": "end the key with ':', or indent the line as part of the value",
    "did not find expected key": "indent the line like its neighbours",
    "did not find expected '-' indicator": "indent the line like its neighbours",
    "did not find expected <document start>": "put '---' between two documents",
    "unexpected end of stream": "close the quote or bracket that was opened",
    "control characters are not allowed": "remove the control character, or escape it in quotes",
}

_ACTION = re.compile(
    r"\{\{-?\s*(?:/\*|\.(?:Values|Release|Chart|Capabilities|Files|Template)\b"
    r"|(?:if|else|end|range|with|include|template|define|block|tpl|toYaml)\b)"
)
"""Content of braces that is typical of Helm's templates."""
_OPENSHIFT_TEMPLATES = {("Template", version) for version in ("v1", "template.openshift.io/v1")}


class _Remark(NamedTuple):
    """What a document is instead of a manifest: line (from 0), what was found, what is wanted."""

    line: int
    found: str
    wanted: str


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One document of a stream, or one item of a List in it.

    Attributes:
        value: JSON-like: mappings have text as keys, and there are no timestamps.
        location: Its first line of content.
        whole: The value of the document that contains it as an item, or its own.
        lines: Line numbers of the collections in ``whole`` (see `Composer`); empty if it doesn't
            come from text.
        prefix: The path of ``value`` in ``whole``; not empty for an item of a List.
    """

    value: object
    location: Location
    whole: object = None
    lines: Mapping[int, Mapping[str, int]] = {}
    prefix: str = ""

    def __repr__(self) -> str:  # the value may be a Secret
        return f"Document({self.location})"

    def place(self, path: str) -> Location:
        """The location of the field ``path``, or of the nearest existing field above it."""
        line, value = self.location.line, self.whole
        for bracketed, bare in _PATH_STEP.findall(self._full(path)):
            step = (bracketed or bare).strip('"')
            there = self.lines.get(id(value), {})
            if step not in there:
                break
            line = there[step]
            if isinstance(value, list):
                value = value[int(step)]
            elif isinstance(value, dict):
                value = value.get(step)
        return Location(self.location.file, line)

    def item(self, path: str, value: object) -> Document:
        """A document of its own for ``value`` at ``path``."""
        return msgspec.structs.replace(
            self, value=value, location=self.place(path), prefix=self._full(path)
        )

    def _full(self, path: str) -> str:
        return f"{self.prefix}.{path}" if self.prefix and path else self.prefix or path


def read_documents(data: bytes | str, file: str) -> tuple[list[Document], list[Problem]]:
    """Read all documents of a stream.

    Args:
        data: UTF-8, or UTF-16 with a byte order mark; any line ends.
        file: Its name in problems.

    Returns:
        The valid documents, without empty ones, and the problems of the others.
    """
    documents: list[Document] = []
    problems: list[Problem] = []
    for number, (line, piece) in enumerate(_pieces(data), start=1):
        try:
            document = _read(piece, file, line, f"YAML document {number}")
        except InputError as error:
            problems += error.problems
        else:
            if document is not None:
                documents.append(document)
    return documents, problems


def _pieces(data: bytes | str) -> Iterator[tuple[int, bytes]]:
    """The stream split before each marker, each piece with the number of its first line."""
    stream = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if stream.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        stream = stream.decode("utf-16", errors="replace").encode()
    stream = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # Also in the middle: files get concatenated with their byte order marks.
    stream = stream.removeprefix(codecs.BOM_UTF8).replace(b"\n" + codecs.BOM_UTF8, b"\n")
    line, begin = 1, 0
    if stream.lstrip().startswith(b"{"):
        # kubectl reads such a stream as JSON: one object after the other, without markers.
        ends = _json_ends(stream)
        for end in ends[:-1]:
            yield line, stream[begin:end]
            line, begin = line + stream.count(b"\n", begin, end), end
    for marker in _MARKER.finditer(stream, begin):
        piece = stream[begin : marker.start()]
        if piece.strip():
            yield line, piece
        line += piece.count(b"\n")
        begin = marker.end() if marker[0] == b"..." else marker.start()
    if stream[begin:].strip():
        yield line, stream[begin:]


def _json_ends(stream: bytes) -> list[int]:
    """The ends of the consecutive JSON objects at the beginning of the stream."""
    ends: list[int] = []
    begin = depth = 0
    for token in JSON_TOKEN.finditer(stream):
        if depth == 0 and (token[0] != b"{" or stream[begin : token.start()].strip()):
            break
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(token[0], 0)
        if depth == 0:
            if not _is_json(stream[begin : token.end()]):
                break
            begin = token.end()
            ends.append(begin)
    return ends


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _read(piece: bytes, file: str, first_line: int, subject: str) -> Document | None:
    def refuse(line: int, found: str, wanted: str) -> InputError:
        where = Location(file, first_line + line)
        return InputError(
            [Problem(subject=subject, path="", found=found, wanted=wanted, location=where)]
        )

    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        line = piece.count(b"\n", 0, error.start)
        raise refuse(line, "is not UTF-8 text", "save the file as UTF-8") from error
    if _DIRECTIVES_ONLY.fullmatch(text):
        return None
    text = _with_json_escapes(text)
    composer = Composer(subject=subject, file=file, first_line=first_line)
    try:
        value = composer.compose(_events(text))
    except (yaml.MarkedYAMLError, yaml.reader.ReaderError) as error:
        raise refuse(*_explained(error, text)) from error
    except InputError as error:
        value, composer.problems = None, list(error.problems)
    if composer.problems:
        remark = _template_in(text)
        raise refuse(*remark) if remark else InputError(composer.problems)
    if value is None:
        return None
    if remark := _unrendered(value, text, file):
        raise refuse(*remark)
    location = Location(file, composer.line)
    return Document(value=value, location=location, whole=value, lines=composer.lines)


def _events(text: str) -> Iterator[yaml.Event]:
    loader = yaml.CSafeLoader(text)
    while (event := loader.get_event()) is not None:
        yield event


def _with_json_escapes(text: str) -> str:
    r"""Replace JSON's surrogate pairs (``\ud83d\ude00``) by YAML's single escape."""
    if not _JSON.match(text):
        return text
    return _JSON_SURROGATES.sub(_one_escape, text)


def _one_escape(pair: re.Match[str]) -> str:
    high, low = int(pair[2], 16) - 0xD800, int(pair[3], 16) - 0xDC00
    return f"{pair[1]}\\U{0x10000 + high * 0x400 + low:08X}"


def _explained(
    error: yaml.MarkedYAMLError | yaml.reader.ReaderError, text: str
) -> tuple[int, str, str]:
    """The line (from 0), what is wrong and what is wanted."""
    if remark := _template_in(text):
        return remark
    if isinstance(error, yaml.reader.ReaderError):
        line = text.encode().count(b"\n", 0, error.position)
        return line, f"isn't YAML: {error.reason}", _hint(error.reason)
    problem = error.problem or "it can't be parsed"
    found = f"isn't YAML: {f'{error.context}, ' if error.context else ''}{problem}"
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return 0, found, _hint(problem)
    lines = text.split("\n")
    if mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return mark.line, found, "indent with spaces; YAML allows no tab there"
    return min(mark.line, text.rstrip().count("\n")), found, _hint(problem)


def _hint(problem: str) -> str:
    return next((hint for part, hint in _HINTS.items() if part in problem), _DEFAULT_HINT)


def _template_in(text: str) -> _Remark | None:
    """Report a text that isn't YAML if it is a Helm template."""
    action = _ACTION.search(text)
    if action is None:
        return None
    line = text.count("\n", 0, action.start())
    return _Remark(line, "is a Helm template", "give the output of: helm template CHART")


def _unrendered(value: object, text: str, file: str) -> _Remark | None:
    """Report a YAML document that isn't a manifest yet."""
    if not isinstance(value, dict):
        return None
    metadata = value.get("metadata")
    if isinstance(metadata, dict) and any("{{" in each for each in _texts(metadata)):
        # Quoted, or YAML would have stopped at the braces.
        return _template_in(text)
    seal = value.get("sops")
    if isinstance(seal, dict) and "mac" in seal:
        wanted = f"give the output of: sops -d {_named(file)}"
        return _Remark(0, "is encrypted by SOPS", wanted)
    if (value.get("kind"), value.get("apiVersion")) in _OPENSHIFT_TEMPLATES:
        # A cluster stores it as it is: its objects are only created when it is processed.
        wanted = f"give the output of: oc process --local -f {shlex.quote(file)}"
        return _Remark(0, "is an OpenShift template, so none of its objects is read", wanted)
    name = PurePath(file).name
    if name.startswith("values") and not {"apiVersion", "kind"} & value.keys():
        wanted = f"give the output of: helm template -f {shlex.quote(file)} CHART"
        return _Remark(0, "is not a manifest, but looks like the values of a Helm chart", wanted)
    return None


def _named(file: str) -> str:
    """A file's name in a command; standard input has none."""
    return "FILE" if file.startswith("<") else shlex.quote(file)


def _texts(metadata: Mapping[str, object]) -> Iterator[str]:
    labels = metadata.get("labels")
    values = (*metadata.values(), *(labels.values() if isinstance(labels, dict) else ()))
    return (each for each in values if isinstance(each, str))
