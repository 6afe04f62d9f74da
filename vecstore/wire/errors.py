"""Errors as a gRPC status with a google.rpc.ErrorInfo, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from vecstore import errors
from vecstore.errors import RemoteError, VecstoreError

DOMAIN: Final = "vecstore"

# The first that an error is an instance of, so subclasses stand before their bases.
_CODES: Final[list[tuple[type[VecstoreError], grpc.StatusCode]]] = [
    (errors.InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (errors.StateError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.DatabaseFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.CorruptionError, grpc.StatusCode.DATA_LOSS),
    (errors.StorageError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.ResourceExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.VecstoreError, grpc.StatusCode.INTERNAL),
]
_BY_CODE: Final[dict[grpc.StatusCode, type[RemoteError]]] = {
    code: kind for kind, code in _CODES if issubclass(kind, RemoteError)
}


# What travels of a message: a caller's own text may stand in it, and trailers are limited.
_MESSAGE_CHARACTERS: Final = 8192
_SUMMARY_CHARACTERS: Final = 512
_DETAILS: Final = "grpc-status-details-bin"


@dataclass(frozen=True)
class Status(grpc.Status):
    """What `context.abort_with_status` takes: a google.rpc.Status stands in the trailers."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def write_error(error: VecstoreError) -> Status:
    """An error as a status. `details` is a summary for tools that do not read the trailers."""
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    fields = {name: json.dumps(getattr(error, name), ensure_ascii=False) for name in error.fields}
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=fields))
    message = _shortened(error.message, _MESSAGE_CHARACTERS)
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=[detail])
    return Status(code, _shortened(message, _SUMMARY_CHARACTERS), ((_DETAILS, status.SerializeToString()),))


def read_error(call: grpc.RpcError, address: str) -> VecstoreError:
    """The error that the server raised, or the RemoteError that tells why there is no answer."""
    assert isinstance(call, grpc.Call)
    for key, packed in call.trailing_metadata() or ():
        if key == _DETAILS:
            error = _rebuilt(packed)
            if error is not None:
                return error
    code = call.code()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return RemoteError(f"{address}: the server does not know this call; is it vecstore's, and not an older one?")
    return _BY_CODE.get(code, RemoteError)(f"{address}: {call.details() or code.name}")


def _rebuilt(packed: bytes) -> VecstoreError | None:
    """The error in a google.rpc.Status, if vecstore wrote it."""
    try:
        status = status_pb2.Status.FromString(packed)
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                kind = errors.BY_REASON.get(info.reason, RemoteError)
                fields = {name: json.loads(value) for name, value in info.metadata.items() if name in kind.fields}
                return kind(status.message, **fields)
    except (DecodeError, ValueError):
        pass
    return None


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."
