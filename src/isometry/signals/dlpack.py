"""Where the tensors of a Python list lie in memory, asked from compiled code.

torch publishes a table of C functions for this (`__dlpack_c_exchange_api__` of the array API
standard, DLPack 1.3): one call tells address, type and layout of a tensor. In Python each of those
is a call by itself, and between two steps of a training, when the cache holds none of that code,
those calls took longer than the sums they were for.

https://dmlc.github.io/dlpack/latest/python_spec.html
"""

from __future__ import annotations

import ctypes
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic
from torch import Tensor, nn

NAMES = ("allocate", "export", "wrap", "describe", "stream")
"""The functions of the table; `describe` fills in a DLTensor."""


class Table(ctypes.Structure):
    """DLPackExchangeAPI of version 1."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("earlier", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in NAMES),
    )


def find_describe() -> int:
    """The address of `describe` of torch's tensors; 0 where this torch (before 2.11, say) has no
    such table, or a later one.
    """
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return 0
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype = ctypes.c_void_p
    pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)
    table = Table.from_address(pointer_of(capsule, b"dlpack_exchange_api"))
    return int(table.describe) if table.major == 1 else 0


DESCRIBE = find_describe()

TYPE_AT = object.__basicsize__ - ctypes.sizeof(ctypes.c_void_p)
"""Where in a Python object the address of its type stands: the last field that all objects have."""

TORCH = np.array([DESCRIBE, TYPE_AT, id(Tensor), id(nn.Parameter)], np.int64)
"""What compiled code needs to ask torch: the function, and the types of tensors that are what they
seem. Subclasses may be anything. Handed over by address (`ASK`), as one process's addresses may not
be in machine code that is kept."""

ASK = TORCH.ctypes.data

DL_TENSOR = np.dtype(
    [
        ("data", np.int64),
        ("device", np.int32),
        ("device_number", np.int32),
        ("dimensions", np.int32),
        ("code", np.uint8),
        ("bits", np.uint8),
        ("lanes", np.uint16),
        ("shape", np.int64),
        ("strides", np.int64),
        ("offset", np.int64),
    ]
)
"""The C structure: addresses are integers here."""

CPU = 1
FLOAT = 2
"""DLPack's numbers of a device and of a type."""


def _pointer(typing_context: Any, address: Any) -> Any:
    """An integer as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return numba.types.voidptr(address), generate


def _described(typing_context: Any, describe: Any, tensor: Any, into: Any) -> Any:
    """Call `describe`; whether it could, with no exception left behind."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        void = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.IntType(32), [void, void]).as_pointer()
        pointers = [builder.inttoptr(address, void) for address in arguments[1:]]
        status = builder.call(builder.inttoptr(arguments[0], function), pointers)
        succeeded = builder.icmp_signed("==", status, ir.Constant(ir.IntType(32), 0))
        with builder.if_then(builder.not_(succeeded), likely=False):
            context.get_python_api(builder).err_clear()
        return succeeded

    return numba.types.boolean(describe, tensor, into), generate


def _length(typing_context: Any, objects: Any) -> Any:
    """Of a Python list, by its address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        python = context.get_python_api(builder)
        return python.list_size(builder.inttoptr(arguments[0], python.pyobj))

    return numba.types.int64(objects), generate


def _entry(typing_context: Any, objects: Any, index: Any) -> Any:
    """The address of an object in a Python list."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        python = context.get_python_api(builder)
        # borrowed
        found = python.list_getitem(builder.inttoptr(arguments[0], python.pyobj), arguments[1])
        return builder.ptrtoint(found, ir.IntType(64))

    return numba.types.int64(objects, index), generate


pointer: Any = intrinsic(_pointer)
described: Any = intrinsic(_described)
length: Any = intrinsic(_length)
entry: Any = intrinsic(_entry)
