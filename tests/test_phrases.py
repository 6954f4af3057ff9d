"""What of a phrase is read and known: marks, the end of long phrases, and words that mean nothing to BERT's pieces."""

from __future__ import annotations

import pytest

from amc_lib.model import minilm
from amc_lib.phrases import as_typed, unknown_words, unread_words
from amc_lib.tokens import SPECIAL, Tokenizer, clean

REAL = """surfers pug skateboarders frisbee snowboarder bulldog sunglasses wetsuit kayak dachshund trampoline corgi
giraffes ostrich raccoon scooter unicycle bicyclist toboggan khaki fuchsia ukulele xylophone hammock inflatable backflip
sled bmx tshirt snowplow cupcakes lollipop leafblower wakeboarder pinstriped didgeridoo hedgehog windsurfer rollerblades
kneepads freckled burrito frisbees weimaraner"""
NONSENSE = """xqzzt asdfgh zxcvbn grxl qwxz jklmn vbnmq xqzk hjkl dfgdfg trwq mlkjh skjdfh brtmk poiuy lkjhg frobnicate
wobblefop großer fahrrad"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(minilm.vocabulary(), 25)


def test_rare_words_stay_known_and_letters_at_random_do_not(tokenizer):
    assert [word for word in REAL.split() if unknown_words(tokenizer, word)] == []
    assert [word for word in NONSENSE.split() if not unknown_words(tokenizer, word)] == []


@pytest.mark.parametrize(
    ("phrase", "typed", "cleaned"),
    [
        ("the dog’s “ball”…", 'the dog\'s "ball"...', "the dogs ball"),
        ("a dog—brown – small", "a dog-brown - small", "a dog brown small"),
        ("dog,cat;bird", "dog cat bird", "dog cat bird"),
        ("dog(left)", "dog left)", "dog left"),
        ("dog, cat", "dog, cat", "dog cat"),
        ("1,000 t.v. sets at 3:15", "1,000 t.v. sets at 3:15", "1000 tv sets at 315"),
        ("sur\u00adfer\u200b", "surfer", "surfer"),
    ],
)
def test_marks_are_those_of_a_keyboard(phrase, typed, cleaned):
    assert as_typed(phrase) == typed and clean(typed) == cleaned


def test_what_is_not_read_is_all_behind_fifty_words_or_the_last_position():
    tokenizer = Tokenizer([*SPECIAL, "a", "red", "##dish", "cat"], 12)
    assert unread_words(tokenizer, "a cat " * 30, 512) == ("a", "cat") * 5
    assert unread_words(tokenizer, "a red cat", 5) == unread_words(tokenizer, "a cat " * 25, 52) == ()
    assert unread_words(tokenizer, "A reddish cat!", 5) == ("cat",)
    assert unread_words(tokenizer, "a reddish cat", 4) == ("reddish", "cat")  # of the former a piece is read
