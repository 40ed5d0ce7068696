"""Contexts as they are answered over gRPC, and as the cache holds them."""

from fleet.context import blocks, packing
from fleet_wire.gen.context.v1 import context_pb2


def answer_of(context: packing.Context) -> context_pb2.GetContextResponse:
    """The answer to a request, as one that did not come from the cache."""
    return context_pb2.GetContextResponse(
        blocks=map(block_message, context.blocks),
        tokens=context.tokens,
        omitted=context.omitted,
        version=context.version,
        hash=context.hash,
        left_out=map(left_out_message, context.left_out),
        tokenizer=context.tokenizer,
    )


def block_message(block: packing.Block) -> context_pb2.ContextBlock:
    return context_pb2.ContextBlock(
        kind=block.kind, source_id=block.source_id, title=block.title, text=block.text, tokens=block.tokens
    )


def left_out_message(it: blocks.LeftOut) -> context_pb2.LeftOut:
    return context_pb2.LeftOut(
        source_id=it.source_id, kind=it.kind, reason=it.reason, tokens=it.tokens, superseded_by=it.superseded_by
    )
