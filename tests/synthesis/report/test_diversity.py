import numpy as np
import pytest
from tiny_language_models import tiny_tokenizer
from transformers import BertConfig, BertModel

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.report.diversity import effective_rank, embedding_spread, mean_cosine


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A sentence-transformers model of random weights, saved as such."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("sentences")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(folder / "model"))
    return folder / "model"


def test_varied_texts_are_spread_wider_than_alike_ones(model):
    alike = [f"A woman in a red coat, number {number}." for number in range(40)]
    words = ["coat", "jeans", "hat", "umbrella", "rain", "bus", "park", "dog", "ladder", "moon"]
    varied = [f"{word} {word[::-1]} " * 3 for word in words]
    narrow, wide = embedding_spread(alike, model), embedding_spread(varied, model)
    assert wide["mean cosine"] < narrow["mean cosine"] <= 1
    assert embedding_spread(["The same."] * 5, model) == pytest.approx({"mean cosine": 1, "effective rank": 1})
    assert embedding_spread(alike, model, max_texts=10) == embedding_spread(alike, model, max_texts=10)


def test_measures_of_known_embeddings():
    axes = np.eye(8)
    assert mean_cosine(axes) == pytest.approx(0)
    assert mean_cosine(np.stack([axes[0], axes[0], -axes[0]])) == pytest.approx(-1 / 3)
    assert effective_rank(np.concatenate([axes[:3], -axes[:3]])) == pytest.approx(3)


def test_what_cannot_be_measured_is_one_clear_line(tmp_path, model):
    with pytest.raises(ValueError, match="two at least"):
        embedding_spread(["One."], model)
    with pytest.raises(SynthesisError, match="cannot be loaded by sentence-transformers"):
        embedding_spread(["One.", "Two."], tmp_path / "nothing")
