"""Values at the door of the data: nothing is wrapped, cut off or counted from the end without a word."""

import numpy as np
import pytest
from helpers.data_trees import FILES, expected, write_tree

from rmaat_np.data import (
    image,
    listops,
    listops_generator,
    load_dataset,
    memory,
    pathfinder,
    pathfinder_generator,
    recall,
    retrieval,
    text,
)
from rmaat_np.data.batches import BatchOrder
from rmaat_np.data.dataset import Split, make_split
from rmaat_np.errors import InputError


def four_rows():
    return make_split([np.arange(1, n + 1) for n in (3, 1, 4, 2)], [0, 1, 1, 0])


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([[1], [2, 256]], "row 2 has token 256, but uint8 holds 1 to 255"),
        ([[1], [2, -1]], "row 2 has token -1, but uint8 holds 1 to 255"),
        ([[1, 0, 2], [3]], "row 1 has token 0, which is padding"),
        ([[1], np.array([1, 0], np.uint8)], "row 2 has token 0, which is padding"),
        ([[1], [1.5]], "row 2 has token 1.5 of type float64; tokens are integers"),
        ([[1], np.array([2.0])], "row 2 has token 2.0 of type float64"),
        ([[1], [True]], "row 2 has token True of type bool"),
        ([[1], ["2"]], "row 2 has token 2 of type <U1"),
        ([[1], [2**70]], f"row 2 has token {2**70} of type object"),
        ([np.array([1], np.uint64), [-1]], "row 2 has token -1"),  # together they would be float64
        ([[1], [[2]]], "row 2 has 2 axes"),
        ([[1], 2], "row 2 has 0 axes"),
        ([[1]], "1 sequences for 2 labels"),
    ],
)
def test_tokens_that_do_not_fit_are_named_with_their_row(sequences, message):
    with pytest.raises(InputError, match=message) as error:
        make_split(sequences, [0, 1])
    assert "\n" not in str(error.value)


def test_the_row_of_a_pair_is_named():
    with pytest.raises(InputError, match="row 2 has token 300"):
        make_split([[1], [1], [1], [300]], [0, 1], documents=2)
    assert make_split([[1], [300]], [0, 1], np.uint16).tokens.tolist() == [1, 300]
    with pytest.raises(InputError, match="row 2 has token 65536, but uint16"):
        make_split([[1], [65_536]], [0, 1], np.uint16)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1.5], "row 1 has label 0.0 of type float64; labels are integers"),
        ([0, None], "row 1 has label 0 of type object"),
        (np.array([0, 2**64 - 1], np.uint64), "row 2 has label 18446744073709551615"),
        ([[0], [1]], "labels have 2 axes"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message):
    with pytest.raises(InputError, match=message):
        make_split([[1], [2]], labels)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.float32, np.uint64])
def test_other_types_of_tokens_are_refused(dtype):
    with pytest.raises(InputError, match=f"dtype is {np.dtype(dtype)}; it must be uint8, uint16 or uint32"):
        make_split([[1]], [0], dtype)


def test_any_integers_are_converted():
    for values in ([1, 2], (1, 2), range(1, 3), np.array([1, 2], np.int64), np.array([1, 2], ">u2"), [np.int8(1), 2]):
        split = make_split(iter([values]), np.array([1], np.uint8))
        assert split.tokens.tolist() == [1, 2] and split.tokens.dtype == np.uint8 and split.labels.dtype == np.int64


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": np.array([1.0, 2, 3])},
        {"tokens": np.array([1, 2, 3])},
        {"tokens": np.array([[1, 2, 3]], np.uint8)},
        {"offsets": np.array([0, 1, 3], np.int32)},
        {"offsets": np.array([0, 1])},
        {"offsets": np.array([0, 4, 3])},
        {"offsets": np.array([1, 2, 3])},
        {"offsets": np.array([0, 1, 2])},
        {"labels": np.array([0.0, 1])},
        {"labels": np.array([0])},
        {"documents": 3},
        {"documents": 2},
    ],
    ids=str,
)
def test_arrays_that_are_no_split(changes):
    arrays = {"tokens": np.array([1, 2, 3], np.uint8), "offsets": np.array([0, 1, 3]), "labels": np.array([0, 1])}
    Split(**arrays)
    with pytest.raises(InputError, match="^Split: "):
        Split(**arrays | changes)


@pytest.mark.parametrize("rows", [[-1], [4], [0.0], [[0]], ["0"]])
def test_rows_that_are_not_there(rows):
    for use in (four_rows().batch, four_rows().take):
        with pytest.raises(InputError, match="rows must be a list of integers from 0 to 3"):
            use(rows)
    with pytest.raises(InputError, match="no rows"):
        four_rows().batch([])
    assert len(four_rows().take([])) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 4, 0), "no rows"),
        (([3], 0, 0), "batch_size is 0, but it must be a whole number, at least 1"),
        (([3], 1.5, 0), "batch_size is 1.5"),
        (([3], 4, -1), "seed is -1"),
        (([3], 4, True), "seed is True"),
        (([3], 4, 0, -1), "growing is -1"),
    ],
)
def test_an_order_of_nothing_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        BatchOrder(*arguments)


@pytest.mark.parametrize("task", sorted(FILES))
@pytest.mark.parametrize(("name", "value"), [("max_length", 0), ("max_length", -1), ("max_length", 2.5), ("seed", -1)])
def test_every_reader_checks_its_numbers(task, name, value, tmp_path):
    """max_length -1 would cut the last byte of each text; listops and retrieval draw nothing, so need no seed."""
    if (name, task) in (("max_length", "pathfinder"), ("seed", "listops"), ("seed", "retrieval"), ("seed", "own")):
        pytest.skip("not used")
    if task == "own":
        with pytest.raises(InputError, match=f"{name} is {value}, but it must be a whole number, at least"):
            load_dataset("own", {name: value}, tmp_path)
        return
    reader = {"listops": listops, "text": text, "retrieval": retrieval, "image": image, "pathfinder": pathfinder}[task]
    with pytest.raises(InputError, match=f"{name} is {value}, but it must be a whole number, at least"):
        reader.load(write_tree(tmp_path, FILES[task]), **{name: value})


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda folder: recall.load(class_within=0), "class_within is 0"),
        (lambda folder: recall.load(length=128.0), "length is 128.0"),
        (lambda folder: recall.load(seed=-1), "seed is -1"),
        (lambda folder: recall.load(rows=(5, 0, 5)), "rows is 0"),
        (lambda folder: memory.load("second"), "kind is 'second', but it must be one of one, last, first"),
        (lambda folder: memory.load(shortest=0), "shortest is 0"),
        (lambda folder: memory.load(shortest=9, length=8), "shortest 9 exceeds length 8"),
        (lambda folder: memory.load(class_within=0), "class_within is 0"),
        (lambda folder: memory.load("first"), "shortest is 1, but kind first needs at least 2; raise it"),
        (lambda folder: memory.load("eight", shortest=8), "shortest is 8, but kind eight needs at least 9"),
        (lambda folder: memory.load("pairs", shortest=8), "shortest is 8, but kind pairs needs at least 9"),
        (lambda folder: memory.load("brackets", shortest=7), "shortest is 7, but kind brackets needs at least 8"),
        (lambda folder: memory.load("eight", 7, 9), "class_within is 7, but kind eight needs at least 8"),
        (lambda folder: memory.load("pairs", 7, 9), "class_within is 7, but kind pairs needs at least 8"),
        (lambda folder: memory.load(test_lengths="512 x"), "test_lengths has 'x', but it must be whole numbers"),
        (lambda folder: memory.load(test_lengths="512;8"), "test_lengths has '512;8'"),
        (lambda folder: memory.load(test_lengths="0"), "tokens from 1 to 10,000,000, such as"),
        (lambda folder: memory.load(test_lengths="-5"), "test_lengths has '-5'"),
        (lambda folder: memory.load(test_lengths="99999999999"), "test_lengths has '99999999999'"),
        (lambda folder: memory.load(test_lengths="9" * 5000), "test_lengths has '999"),
        (lambda folder: memory.load("eight", 8, 9, test_lengths="8"), "test_lengths has '8'.* from 9 to"),
        (lambda folder: memory.load(seed=-1), "seed is -1"),
        (lambda folder: memory.load(rows=(5, 0, 5)), "rows is 0"),
        (lambda folder: listops_generator.generate(5, -1, 5, 20), "seed is -1"),
        (lambda folder: listops_generator.generate(5.0, 0, 5, 20), "count is 5.0"),
        (lambda folder: listops_generator.load_short(folder, min_length=5, max_length=20.5), "max_length is 20.5"),
        (lambda folder: listops_generator.generate_lra(folder, seed=-1, rows=(1, 1, 1)), "seed is -1"),
        (lambda folder: pathfinder_generator.generate(5.0), "count is 5.0"),
        (lambda folder: pathfinder_generator.generate_dataset(folder, count=20, seed=0.5), "seed is 0.5"),
    ],
)
def test_every_generator_checks_its_numbers(draw, message, tmp_path):
    with pytest.raises(InputError, match=message):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", [*sorted(FILES), "recall", "memory"])
def test_every_decoder_refuses_what_is_no_id(task):
    """A byte would wrap, a negative id would count from the end of a table."""
    dataset = expected(task) if task in FILES else {"recall": recall, "memory": memory}[task].load(rows=(5, 5, 5))
    good = dataset.train.sequence(0).astype(np.int64)
    assert dataset.decode(good) == dataset.decode(good.tolist())
    for wrong in (dataset.vocab_size, -1, 1.5, 2**40):
        changed = good.astype(type(wrong)) if isinstance(wrong, float) else good.copy()
        changed[0] = wrong
        with pytest.raises(InputError, match=f"token {wrong} cannot be decoded; ids are integers, 0 to"):
            dataset.decode(changed)


def test_padding_of_a_picture_is_black():
    assert image.decode([0] * 512 + [256] * 512).split("\n") == [" " * 32] * 16 + ["@" * 32] * 16
    with pytest.raises(InputError, match="3 tokens cannot be decoded; a picture has 1024"):
        image.decode([1, 2, 3])


def test_a_byte_that_would_wrap_to_padding():
    with pytest.raises(InputError, match="byte 3 of the texts is 0xFF"):
        text.byte_split(bytearray(b"ab\xff"), [3], [0])


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("recall", {"x": 1}, "x is no data option of task recall; there are class_within, length"),
        ("memory", {"kind": "second"}, "kind is 'second'"),
        ("memory", {"test_lengths": 512}, "test_lengths is 512, but it must be text"),
        ("recall", None, "options of task recall are None"),
        ("listops", {"source": "short"}, "the data option min_length is missing"),
        ("listops", {"max_lenght": 3}, "max_lenght is no data option"),
        ("pathfinder", {"source": "generated"}, "the data option images is missing"),
        ("pathfinder", {"source": "files"}, "the data option difficulty is missing"),
        ("recall", {"length": 0}, "length is 0, but it must be a whole number, at least 1"),
        ("recall", {"length": "8"}, "length is '8'"),
        ("listops", {"source": 3}, "source is 3, but it must be text"),
        ([], {}, r"task \[\] is unknown"),
        ("mine", {}, "task 'mine' is unknown"),
    ],
)
def test_options_are_checked_before_anything_is_read(task, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_dataset(task, options, tmp_path)
