"""Rotation and quantizers: fit, encode, encode a query; they own no storage.

rotation                 a random rotation of any dimension, from a seed
quantizer                what all kinds share, and their form as bytes
int8, int4, binary       the kinds; uniform is what the first two share
config                   how a collection asks for one of them
"""

from vecstore.quantization.binary import Binary, ListBinary
from vecstore.quantization.int4 import Int4
from vecstore.quantization.int8 import Int8
from vecstore.quantization.quantizer import METRICS, Quantizer, QueryCodes
from vecstore.quantization.rotation import Rotation

KINDS = {"int8": Int8, "int4": Int4, "binary": Binary}

__all__ = ["Binary", "Int4", "Int8", "KINDS", "ListBinary", "METRICS", "Quantizer", "QueryCodes", "Rotation"]
