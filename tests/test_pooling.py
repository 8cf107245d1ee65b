"""Features out of whatever encoders return."""

from collections import OrderedDict

import pytest
import torch

from ddm import Pooled, pool_features

MAP, TOKENS, FLAT = torch.rand(2, 5, 3, 4), torch.rand(2, 7, 5), torch.rand(2, 5)


@pytest.mark.parametrize(
    ("output", "arguments", "expected"),
    [
        (FLAT, {}, FLAT),
        (MAP, {}, MAP.sum((2, 3)) / 12),
        (MAP, {"channels_last": True}, MAP.sum((1, 2)) / 15),
        (TOKENS, {}, TOKENS.sum(1) / 7),
        (TOKENS, {"tokens": "first"}, TOKENS[:, 0]),
        ((MAP, FLAT), {}, FLAT),
        ([FLAT, MAP], {"key": 0}, FLAT),
        ({"feats": FLAT, "logits": MAP}, {}, FLAT),
        ({"mine": MAP}, {"key": "mine"}, MAP.mean((2, 3))),
        (OrderedDict(last_hidden_state=TOKENS, pooler_output=FLAT), {}, FLAT),
        (OrderedDict(last_hidden_state=TOKENS, pooler_output=None), {}, TOKENS.mean(1)),
        ({"x_norm_clstoken": FLAT, "x_norm_patchtokens": TOKENS}, {}, FLAT),
    ],
)
def test_pooling(output, arguments, expected):
    torch.testing.assert_close(pool_features(output, **arguments), expected)


@pytest.mark.parametrize(
    ("output", "arguments", "message"),
    [
        ({"a": FLAT}, {}, "a mapping with a; say which"),
        ({"a": FLAT}, {"key": "b"}, "key=, not 'b'"),
        (FLAT, {"key": "feats"}, "returns a tensor, of which key='feats' names no entry; leave"),
        (FLAT, {"key": 0}, "key=0 names no entry"),
        ((FLAT,), {"key": 3}, "returns 1 outputs; key=3"),
        ((), {}, "returns 0 outputs"),
        (torch.rand(3), {}, r"shape \(3,\) cannot be pooled"),
        ("text", {}, "returns str, not tensors"),
        (TOKENS, {"tokens": "last"}, "must be 'mean' or 'first'"),
    ],
)
def test_what_cannot_be_pooled_is_said(output, arguments, message):
    with pytest.raises(ValueError, match=message):
        pool_features(output, **arguments)


def test_pooled_encoder():
    class Encoder(torch.nn.Module):
        def forward(self, x):
            return {"feats": x, "logits": x.mean()}

    assert torch.equal(Pooled(Encoder())(FLAT), FLAT)
