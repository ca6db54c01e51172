"""The answer to an input is the same alone and in any batch, in serving and in learning."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from merging.errors import InvalidInput
from merging.experts.examples import split_examples
from merging.experts.heads import Head
from merging.kinds import ModelKind
from merging.learning.batches import answers, encode_examples, prove_batches
from merging.serving import LONGEST_TEXT, Encoder, TaskError, assemble, class_scores, generate
from tests.merging.tiny import WORDS
from tests.tiny_tokenizer import SPECIAL

CPU = torch.device("cpu")
KIND = ModelKind.TEXT_CLASSIFIER
VOCABULARY = len(SPECIAL) + len(WORDS)
# Lengths from two tokens on; pairs, also one whose second text is empty; marks written in a text.
INPUTS = (
    *("ba", "de di do du ba be fi fo", ("ba de", "di do du"), ("ba", ""), "di do du fi"),
    *("ba de [PAD]", "[PAD]", "di [PAD] [PAD] de do", "fi fo fa [SEP]", "ga ge"),
)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {**SMALL, "intermediate_size": 32, "max_position_embeddings": 32}
LLAMA = {**BERT, "num_key_value_heads": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
BART = {
    "d_model": 16,
    "max_position_embeddings": 32,
    **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
}
XLNET = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}
FUNNEL = {"block_sizes": [1, 1], "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 32}
# Architectures that make different things of padding: (model type, sizes, how padding is found to go).
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "absolute positions": ("bert", BERT, "right"),
    "positions behind the padding's": ("roberta", {**BERT, "pad_token_id": 1}, "right"),
    "answers at the last token": ("xlnet", XLNET, "left"),
    "no attention mask": ("fnet", BERT, "equal"),
    "pooled in twos": ("funnel", FUNNEL, "right"),
    "convolutions": ("convbert", {**BERT, "embedding_size": 16, "conv_kernel_size": 3}, "equal"),
    "another padding than the tokenizer's": ("gpt2", {**GPT2, "pad_token_id": 7}, "right"),
    "padding is the end": ("gpt2", {**GPT2, "pad_token_id": 3, "eos_token_id": 3}, "right"),
    "no padding, positions from the left": ("gpt2", {**GPT2, "pad_token_id": None}, "equal"),
    "no padding": ("llama", {**LLAMA, "pad_token_id": None}, "left"),
    "padding that no token has": ("llama", {**LLAMA, "pad_token_id": -1}, "left"),
    "ends are counted": ("bart", BART, "right"),
    "relative, two parts": ("t5", T5, "right"),
}


def classifier(model_type: str, sizes: dict[str, Any], scale: float = 0.2) -> Any:
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    values = {**tokens, "vocab_size": VOCABULARY, "num_labels": 3, **sizes}
    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(model_type, **values)
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale)
    return assemble(made.config.to_dict(), KIND, made.state_dict())


@pytest.mark.parametrize("case", CASES)
def test_the_batch_does_not_change_an_answer(case: str, text_base: Path) -> None:
    model_type, sizes, padding = CASES[case]
    model = classifier(model_type, sizes)
    tokenizer = AutoTokenizer.from_pretrained(text_base)
    alone = []
    for value in INPUTS:  # as transformers itself has it
        parts = value if isinstance(value, tuple) else (value,)
        given = tokenizer(*([p] for p in parts), return_tensors="pt", truncation=True)
        taken = {n: t for n, t in given.items() if n in signature(model.forward).parameters}
        with torch.no_grad():
            alone.append(model(**taken).logits[0])
    expected = torch.stack(alone)
    encoder = Encoder(text_base, KIND, model)
    found = class_scores(model, encoder, INPUTS, CPU)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert encoder.paddings[0] == padding
    table = pd.DataFrame({"text": INPUTS, "label": "a", "split": "gate"})
    table["text_pair"] = [v[1] if isinstance(v, tuple) else None for v in INPUTS]
    table["text"] = [v[0] if isinstance(v, tuple) else v for v in INPUTS]
    examples = split_examples(table, KIND, ["a", "b", "c"]).gate
    encoder = Encoder(text_base, KIND, model)
    encoded = encode_examples(encoder, examples)
    prove_batches(model, encoder, encoded, KIND)
    places = [INPUTS.index(value) for value in examples.inputs]
    learned, _ = answers(model, encoder, encoded, KIND)
    torch.testing.assert_close(learned, expected[places], rtol=1e-4, atol=1e-5)


def generator(cls: str, sizes: dict[str, Any], generation: dict[str, Any] | None = None) -> Any:
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    values = {**tokens, "vocab_size": VOCABULARY, **sizes}
    auto = AutoModelForSeq2SeqLM if cls in ("bart", "t5") else AutoModelForCausalLM
    torch.manual_seed(0)
    made = auto.from_config(AutoConfig.for_model(cls, **values))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return assemble(made.config.to_dict(), ModelKind.GENERATOR, made.state_dict(), generation)


ENDS = {"eos_token_id": [3, 9], "pad_token_id": 0, "decoder_start_token_id": 2}
SHORT = {**ENDS, "max_new_tokens": 8}
# What authors of generators set, and what a batch does to it.
SETTINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "none": ("llama", LLAMA, None),
    "several ends": ("llama", LLAMA, ENDS),
    "beams and sampling": (
        "llama",
        LLAMA,
        {**SHORT, "num_beams": 4, "do_sample": True, "top_k": 5},
    ),
    "a penalty that sees padding": ("llama", LLAMA, {**SHORT, "repetition_penalty": 1.7}),
    "a length that counts the input": ("gpt2", GPT2, {**ENDS, "max_length": 14}),
    "more than there is room for": ("gpt2", GPT2, {**ENDS, "max_new_tokens": 100}),
    "no ends": ("gpt2", {**GPT2, "eos_token_id": None}, {"max_new_tokens": 5}),
    "suppressed": ("bart", BART, {**ENDS, "suppress_tokens": [11, 12], "max_length": 12}),
    "a forced language": (
        *("bart", BART),
        {**ENDS, "eos_token_id": 3, "forced_bos_token_id": 9, "max_new_tokens": 6},
    ),
    "relative": ("t5", T5, SHORT),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_generator_writes_as_its_author_has_it_write(case: str, text_base: Path) -> None:
    cls, sizes, settings = SETTINGS[case]
    model = generator(cls, sizes, settings)
    tokenizer = AutoTokenizer.from_pretrained(text_base)
    encoder = Encoder(text_base, ModelKind.GENERATOR, model)
    inputs = [value for value in INPUTS if isinstance(value, str)]
    expected = []
    author = GenerationConfig(**settings) if settings else model.generation_config
    model.generation_config = author
    for text, row in zip(inputs, encoder.encode(inputs), strict=True):
        given = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        how = {"do_sample": False, "num_beams": 1, "max_new_tokens": encoder.answer_tokens(row)}
        if author.max_length and not encoder.joined:
            how.pop("max_new_tokens")
        tokens = model.generate(**given, **how)[0]
        own = tokens[given["input_ids"].shape[1] :] if encoder.joined else tokens
        expected.append(tokenizer.decode(own, skip_special_tokens=True).strip())
    model.generation_config = encoder.settings
    found = generate(model, encoder, inputs, CPU)
    assert found == expected
    assert any(found)


def test_generation_settings_are_the_heads_own(tmp_path: Path) -> None:
    head = Head("task", {"model_type": "gpt2"}, generation={**ENDS, "transformers_version": "4"})
    assert head.digest != Head("task", {"model_type": "gpt2"}, generation=None).digest
    head.save(tmp_path)
    assert Head.load(tmp_path, "task").generation == ENDS
    assert Head.load(tmp_path, "task").digest == head.digest
    (tmp_path / "generation_config.json").write_text("[1")
    with pytest.raises(InvalidInput, match=r"generation_config.json: expected a JSON file"):
        Head.load(tmp_path, "task")


LIMITS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "a table": ("bert", BERT, 10**30, 32),
    "behind the padding": (
        "roberta",
        {**BERT, "max_position_embeddings": 33},
        99,
        32,
    ),
    "two rows before the first": ("bart", BART, 10**30, 32),
    "a shorter text": ("bert", BERT, 9, 9),
    "none": ("t5", T5, 10**30, LONGEST_TEXT),
    "none, as XLNet says it": ("xlnet", XLNET, 10**30, LONGEST_TEXT),
}


@pytest.mark.parametrize("case", LIMITS)
def test_a_text_is_cut_where_the_model_or_its_author_ends(case: str, text_base: Path) -> None:
    model_type, sizes, longest, limit = LIMITS[case]
    model = classifier(model_type, sizes)
    tokenizer = AutoTokenizer.from_pretrained(text_base, model_max_length=longest)
    encoder = Encoder(text_base, KIND, model, tokenizer)
    (row,) = encoder.encode([" ".join(WORDS * 10)])  # 600 words
    assert len(row["input_ids"]) == encoder.limit == limit
    assert class_scores(model, encoder, [" ".join(WORDS * 10)], CPU).isfinite().all()


def word_pieces(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS)) + "\n")


def sentence_pieces(folder: Path) -> None:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)]),
        model_writer=model,
        model_type="char",
        vocab_size=23,
        minloglevel=2,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def nothing(folder: Path) -> None:
    pass


def of_class(name: str) -> Callable[[Path], None]:
    settings = json.dumps({"tokenizer_class": name})
    return lambda folder: (folder / "tokenizer_config.json").write_text(settings)  # type: ignore[return-value]


CANINE = {**SMALL, "intermediate_size": 32, "max_position_embeddings": 64}
TOKENIZERS: dict[str, tuple[str, dict[str, Any], Callable[[Path], None], str]] = {
    "words only": ("bert", BERT, word_pieces, "BertTokenizer"),
    "sentencepiece": ("t5", {**T5, "vocab_size": 23}, sentence_pieces, "T5Tokenizer"),
    "bytes": (
        "t5",
        {**T5, "vocab_size": 384, "eos_token_id": 1},
        of_class("ByT5Tokenizer"),
        "ByT5Tokenizer",
    ),
    "characters": ("canine", CANINE, of_class("CanineTokenizer"), "CanineTokenizer"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_is_read_whatever_its_files_are(case: str, tmp_path: Path) -> None:
    model_type, sizes, write, name = TOKENIZERS[case]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    write(tmp_path)
    model = classifier(model_type, sizes)
    encoder = Encoder(tmp_path, KIND, model)
    assert type(encoder.processor).__name__ == name
    inputs = ["ba de di", ("do du ba", "de"), "di do du fi fo fa be"]
    found = class_scores(model, encoder, inputs, CPU)
    alone = [class_scores(model, encoder, [one], CPU) for one in inputs]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ["bert", "t5", "gpt2", "xlnet", "llama"])
def test_a_tokenizer_that_lacks_its_vocabulary_is_refused(model_type: str, tmp_path: Path) -> None:
    sizes = {"bert": BERT, "t5": T5, "gpt2": GPT2, "xlnet": XLNET, "llama": LLAMA}[model_type]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(TaskError, match=f"{tmp_path}: expected a tokenizer"):
        Encoder(tmp_path, KIND, classifier(model_type, sizes))


def test_code_beside_a_tokenizer_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(TaskError, match="expected a tokenizer"):
        Encoder(tmp_path, KIND, classifier("bert", BERT))
    assert not (tmp_path / "ran").exists()


def test_a_short_text_before_it_does_not_change_a_long_one(text_base: Path) -> None:
    """BigBird changes itself at its first short text."""
    sizes = {**BERT, "max_position_embeddings": 64, "block_size": 2, "num_random_blocks": 1}
    model = classifier("big_bird", {**sizes, "attention_type": "block_sparse"}, scale=1)
    tokenizer = AutoTokenizer.from_pretrained(text_base, model_max_length=64)
    long, short = " ".join(WORDS[:40]), "ba"
    with torch.no_grad():
        alone = model(**tokenizer(long, return_tensors="pt")).logits
    encoder = Encoder(text_base, KIND, model, tokenizer)
    for inputs in ([short, long], [short], [long]):
        found = class_scores(model, encoder, inputs, CPU)
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
