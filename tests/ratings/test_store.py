"""The store's rules for items, raters and votes, one by one."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from raising import raises_with
from stores import NOW, cast, choice_for, judge_all, make_items, open_store

from sawyer.errors import RatingError, RunError
from sawyer.ratings import Choice, RatingSettings, RatingStore, Vote, item_of
from sawyer.records import Answer, Message, Prompt, prompt_of

# Items


def test_items_are_added_once_and_take_a_new_uncertainty(tmp_path: Path) -> None:
    items = make_items(3)
    with open_store(tmp_path) as store:
        assert store.add_items(items) == 3
        assert store.add_items([*items, *items]) == 0
        assert store.add_items([replace(items[1], uncertainty=0.5), *make_items(4)]) == 1
        assert store.item(items[1].id).uncertainty == 0.5
        assert store.add_items(items) == 0  # None: not known; what is known stays
        assert store.item(items[1].id).uncertainty == 0.5
        assert store.progress(NOW).items == 4


def test_texts_come_back_as_they_were(tmp_path: Path) -> None:
    odd = ["\0 between", "half \ud83d", "\U0001f600 \u05e9\u05dc\u05d5\u05dd \u202e", "x" * 1_000_000, "", " \n\t\r\u2028"]
    prompt = Prompt(messages=(Message(role="system", content="\0"), Message(role="user", content="\udc00 <script>")))
    item = item_of(prompt, [Answer(response=text, score=1.5, source="\ud800") for text in odd])
    with open_store(tmp_path, [item], "rank") as store:
        assert store.item(item.id) == item
    with RatingStore.open(tmp_path / "votes.sqlite") as store:  # and from the disk
        assert store.item(item.id) == item
        assert store.assign(store.rater("a"), 1, NOW)[0].item == item


def test_answers_and_prompts_of_many_pairs_are_stored_once(tmp_path: Path) -> None:
    prompt, answers = prompt_of("p"), [Answer(response=f"{i}" * 1000, score=None) for i in range(8)]
    pairs = [item_of(prompt, [one, other]) for i, one in enumerate(answers) for other in answers[:i]]
    with open_store(tmp_path, pairs) as store, sqlite3.connect(store.path) as connection:
        assert store.progress(NOW).items == 28
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (8,)
        assert connection.execute("SELECT count(*) FROM prompts").fetchone() == (1,)
    connection.close()


# Raters


def test_a_name_is_one_rater_however_it_is_typed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        anna = store.rater(" Anna  Mei\u00dfner ")
        assert anna.name == "Anna Mei\u00dfner"
        for name in ("ANNA MEISSNER", "anna\tmei\u00dfner", "anna\u200b mei\u00dfner", "\uff21nna Mei\u00dfner"):
            assert store.rater(name) == anna
        assert store.rater("Zoe\u0308") == store.rater("zo\u00eb")
        assert store.rater("Bob", kind="model").kind == "model"
        assert [rater.name for rater in store.raters()] == ["Anna Mei\u00dfner", "Zo\u00eb", "Bob"]
        with raises_with(RatingError, given=["Bob", "model", "person"], todo="another name"):
            store.rater("bob")


@pytest.mark.parametrize("name", ["", "  ", "\u200b", "x" * 61, "a\0b", "a\x1bb", 7, None])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with open_store(tmp_path) as store:
        with pytest.raises(RatingError):
            store.rater(name)
        assert store.raters() == []


def test_a_key_leads_to_its_rater_alone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        anna, bob = store.rater("anna"), store.rater("bob")
        keys = [store.rater_key(anna), store.rater_key(bob)]
        assert all(len(key) == 32 and int(key, 16) >= 0 for key in keys) and keys[0] != keys[1]
        assert [store.rater_by_key(key) for key in keys] == [anna, bob]
        for key in ("", "0" * 32, keys[0].upper() + "x", keys[0][:-1], "\u00e9" * 32, "%" * 32, None):
            assert store.rater_by_key(key) is None  # type: ignore[arg-type]
        with pytest.raises(RatingError):
            store.rater_key(replace(anna, id=77))


# Votes


def test_the_same_vote_again_is_the_same_vote(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(2)) as store:
        anna = store.rater("anna")
        assignment = store.assign(anna, 1, NOW)[0]
        vote = Vote(id="v1", assignment=assignment.id, choice=Choice(grade=2), seconds=3.5, rewrite="better", note="why")
        first = store.vote(anna, vote, NOW)
        assert first.assignment.vote == vote and (first.timestamp, first.revision) == (NOW, 1)
        assert store.vote(anna, vote, NOW + 60) == first
        assert store.vote(anna, replace(vote, choice=Choice(grade=-3)), NOW + 60) == first  # what was acknowledged stays
        assert store.stored_votes() == [first]


def test_another_id_is_a_revision_and_the_last_one_counts(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(2)) as store:
        anna = store.rater("anna")
        assignment = store.assign(anna, 1, NOW)[0]
        votes = [cast(store, anna, assignment, f"v{i}", Choice(grade=i), now=NOW - i) for i in range(3)]
        assert [vote.revision for vote in votes] == [1, 2, 3]
        assert store.stored_votes() == votes
        assert store.history(anna) == votes[-1:]
        assert [item.votes for item in store.rated_items()] == [(votes[-1],)]
        assert store.assignment(anna, assignment.id) == votes[-1].assignment
        # An old revision that is sent again does not come back to life.
        assert cast(store, anna, assignment, "v0", Choice(grade=0)) == votes[0]
        assert store.history(anna) == votes[-1:]


def test_votes_on_what_was_never_shown_are_refused(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(2)) as store:
        anna, bob = store.rater("anna"), store.rater("bob")
        assignment = store.assign(anna, 1, NOW)[0]
        for number in (assignment.id + 1, 0, -1, 2**63, 10**40, True, 1.0, "1", None):
            vote = Vote(id="v", assignment=number, choice=Choice(grade=1), seconds=1)  # type: ignore[arg-type]
            with raises_with(RatingError, given="no item was shown to anna"):
                store.vote(anna, vote, NOW)
        with raises_with(RatingError, given="no item was shown to bob"):
            cast(store, bob, assignment, "v")
        with raises_with(RatingError, given="no rater"):
            cast(store, replace(anna, id=99), assignment, "v")
        assert store.stored_votes() == []


def test_an_id_belongs_to_one_vote(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(3)) as store:
        anna, bob = store.rater("anna"), store.rater("bob")
        one, two = store.assign(anna, 2, NOW)
        cast(store, anna, one, "v")
        for rater, assignment in ((anna, two), (bob, store.assign(bob, 1, NOW)[0])):
            with raises_with(RatingError, given="id v", todo="new id"):
                cast(store, rater, assignment, "v")
        assert len(store.stored_votes()) == 1


@pytest.mark.parametrize("id", ["", "x" * 101, "a b\n", "\u00e9", "\0", 7, None])
def test_ids_that_no_page_makes(tmp_path: Path, id: str) -> None:
    with open_store(tmp_path, make_items(1)) as store:
        anna = store.rater("anna")
        with raises_with(RatingError, given="id", expected="UUID"):
            cast(store, anna, store.assign(anna, 1, NOW)[0], id)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, True, "3", None])
def test_seconds_are_a_number(tmp_path: Path, seconds: float) -> None:
    with open_store(tmp_path, make_items(1)) as store:
        anna = store.rater("anna")
        vote = Vote(id="v", assignment=store.assign(anna, 1, NOW)[0].id, choice=Choice(grade=1), seconds=seconds)
        with raises_with(RatingError, given="seconds"):
            store.vote(anna, vote, NOW)
        assert store.vote(anna, replace(vote, seconds=-2), NOW).assignment.vote == replace(vote, seconds=0.0)


def test_half_a_character_does_not_lose_a_vote(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(1)) as store:
        anna = store.rater("anna")
        vote = Vote(
            id="v",
            assignment=store.assign(anna, 1, NOW)[0].id,
            choice=Choice(grade=1),
            seconds=1.0,
            rewrite="cut \ud83d|whole \ud83d\ude00|\0",
            note="x" * 1_000_000,
        )
        stored = store.vote(anna, vote, NOW).assignment.vote
        assert stored is not None and stored.rewrite == "cut \ufffd|whole \U0001f600|\0" and len(stored.note) == 1_000_000
        assert store.history(anna)[0].assignment.vote == stored
        for text in (None, 7, ["x"]):
            with raises_with(RatingError, given="note", expected="text"):
                store.vote(anna, replace(vote, id="w", note=text), NOW)  # type: ignore[arg-type]


def test_several_votes_of_which_one_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(3)) as store:
        anna = store.rater("anna")
        one, two, three = store.assign(anna, 3, NOW)
        grades = ((one, 1), (two, 9), (three, -1))
        votes = [
            Vote(id=f"v{a.id}", assignment=a.id, choice=Choice(grade=grade), seconds=1.0) for a, grade in (*grades, (one, 1))
        ]
        results = store.votes(anna, votes, NOW)
        assert [isinstance(result, RatingError) for result in results] == [False, True, False, False]
        assert results[0] == results[3]
        assert [vote.assignment.id for vote in store.stored_votes()] == [one.id, three.id]
        assert store.votes(anna, [], NOW) == []


def test_undo_walks_back_through_all_votes(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(12)) as store:
        anna = store.rater("anna")
        handed = store.assign(anna, 12, NOW)
        for assignment in handed[:11]:
            cast(store, anna, assignment, f"v{assignment.id}", now=NOW - assignment.id)  # a clock that runs backwards
        path, before = [], handed[11].id  # the item on the screen, without a vote
        while (vote := store.previous(anna, before)) is not None:
            path.append(vote.assignment.id)
            before = vote.assignment.id
            cast(store, anna, vote.assignment, f"w{before}", Choice(grade=-3))  # judged again on the way: the order stays
        assert path == [assignment.id for assignment in reversed(handed[:11])]
        assert [vote.assignment.id for vote in store.history(anna)] == path[::-1]
        assert {vote.revision for vote in store.history(anna)} == {2}
        assert store.previous(anna, None) == store.history(anna)[-1]
        assert store.previous(store.rater("bob"), None) is None
        with pytest.raises(RatingError):
            store.previous(store.rater("bob"), handed[0].id)


def test_every_method_is_stored_with_its_votes(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    handed = []
    for method in ("pair", "graded", "rank", "score"):  # a method that is changed later, too
        with open_store(path, make_items(10), method, overlap=0.0, repeat_rate=0.0) as store:
            anna = store.rater("anna")
            handed += judge_all(store, anna, 2)
            assert handed[-1].method == method
    with RatingStore.open(path) as store:
        assert store.settings.method == "score"
        assert [vote.assignment.method for vote in store.history(anna)] == [assignment.method for assignment in handed]
        assert [vote.assignment.vote.choice for vote in store.history(anna) if vote.assignment.vote] == [
            choice_for(assignment) for assignment in handed
        ]


# Adjudication


def test_an_adjudicated_item_is_asked_no_more(tmp_path: Path) -> None:
    items = make_items(4)
    with open_store(tmp_path, items, overlap=1.0, repeat_rate=1.0) as store:
        anna, bob, owner = (store.rater(name) for name in ("anna", "bob", "owner"))
        handed = store.assign(anna, 1, NOW)[0]
        store.assign(bob, 4, NOW)
        first = store.adjudicate(handed.item.id, Choice(grade=2), owner, now=NOW)
        assert first.assignment.order == (0, 1) and first.assignment.pick == "adjudication"
        assert handed.item not in [assignment.item for assignment in store.assign(anna, 4, NOW)]
        assert handed.item not in [assignment.item for assignment in store.assign(bob, 4, NOW)]
        late = cast(store, anna, handed, "late")  # it was on the screen already: nothing is refused, the owner's word stands
        second = store.adjudicate(handed.item.id, Choice(grade=-1), owner, now=NOW)
        assert (second.assignment.id, second.revision) == (first.assignment.id, 2)
        (rated,) = store.rated_items()
        assert set(v.assignment.id for v in rated.votes) == {late.assignment.id, second.assignment.id}
        other = store.adjudicate(handed.item.id, Choice(grade=0), bob, now=NOW)
        assert [v for v in store.rated_items()[0].votes if v.assignment.pick == "adjudication"] == [other]
        assert store.history(owner) == [] and store.previous(bob, None) is None  # undo is for what the page showed
        assert [vote.revision for vote in store.stored_votes()] == [1, 1, 2, 1]
        with raises_with(RatingError, given="no item 'x'"):
            store.adjudicate("x", Choice(grade=1), owner)
        with raises_with(RatingError, given="grade is 9"):
            store.adjudicate(items[0].id, Choice(grade=9), owner)


# Models, and votes from elsewhere


def test_models_do_not_stand_in_for_people(tmp_path: Path) -> None:
    items = make_items(6)
    with open_store(tmp_path, items, overlap=0.0) as store:
        judge, anna = store.rater("judge", kind="model"), store.rater("anna")
        for item in items:
            assignment = store.assign_item(judge, item, (1, 0), "random")
            assert store.assign_item(judge, item.id, (0, 1), "uncertain") == assignment  # its own again, in its order
            stored = cast(store, judge, assignment, f"j{assignment.id}")
            assert store.assign_item(judge, item, (0, 1), "random").vote == stored.assignment.vote
        assert store.assign_item(judge, items[0], (0, 1), "random", method="score").vote is None
        assert store.assign(judge, 6, NOW) == []
        assert store.progress(NOW).judged_items == 0
        assert store.done_and_left(anna, NOW) == (0, 6)
        assert len(judge_all(store, anna)) == 6
        assert store.progress(NOW).judged_items == 6
        assert store.progress(NOW).votes == {"judge": 6, "anna": 6}
        with raises_with(RatingError, given="[0, 0]"):
            store.assign_item(judge, items[0], (0, 0), "random", method="rank")
        with pytest.raises(RatingError):
            store.assign_item(judge, items[0], (0, 1), "repeat")
        with pytest.raises(RatingError):
            store.assign_item(judge, "x", (0, 1), "random")


def test_imported_votes_owe_no_repeats(tmp_path: Path) -> None:
    items = make_items(60)
    with open_store(tmp_path, items, repeat_rate=0.5) as store:
        anna = store.rater("anna")
        for item in items[:40]:
            assignment = store.assign_item(anna, item, (0, 1), "random")
            cast(store, anna, assignment, f"i{assignment.id}")
        picks = [assignment.pick for assignment in judge_all(store, anna, 10)]
        assert picks.count("repeat") == 5  # half of the ten, not half of fifty


# The digest


def test_the_digest_is_of_what_was_judged(tmp_path: Path) -> None:
    items = make_items(3)
    digests = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        with open_store(tmp_path / folder, items) as store:
            empty = store.digest()
            anna = store.rater("anna")
            if folder == "two":
                store.rater("somebody else")  # who does not vote
            assignment = store.assign_item(anna, items[0], (0, 1), "random")
            cast(store, anna, assignment, f"{folder}.1", Choice(grade=1), now=NOW + (folder == "two"))
            one = store.digest()
            cast(store, anna, assignment, f"{folder}.2", Choice(grade=2))
            two = store.digest()
            cast(store, anna, assignment, f"{folder}.3", Choice(grade=1))
            assert store.digest() == one  # thought again, and again: the same judgement
            assert len({empty, one, two}) == 3
            digests.append((empty, one, two))
    assert digests[0] == digests[1]


def test_of_several_adjudications_the_last_one_counts_in_the_digest(tmp_path: Path) -> None:
    items = make_items(1)
    with open_store(tmp_path, items) as store:
        digests = []
        for name, grade in (("anna", 1), ("bob", -1), ("anna", 1), ("bob", -1)):
            store.adjudicate(items[0].id, Choice(grade=grade), store.rater(name), now=NOW)
            digests.append(store.digest())
        assert digests[:2] == digests[2:] and digests[0] != digests[1]


# Several calls as one


def test_all_or_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        with pytest.raises(ZeroDivisionError), store.all_or_nothing():
            store.add_items(make_items(2))
            anna = store.rater("anna")
            cast(store, anna, store.assign(anna, 1, NOW)[0], "v")
            assert store.progress(NOW).judged_items == 1
            raise ZeroDivisionError
        assert store.progress(NOW).items == 0 and store.raters() == [] and store.stored_votes() == []
        with store.all_or_nothing():
            store.add_items(make_items(2))
            anna = store.rater("anna")
            cast(store, anna, store.assign(anna, 1, NOW)[0], "v")
        with RatingStore.open(store.path) as again:
            assert again.progress(NOW) == store.progress(NOW) and len(again.history(anna)) == 1


def test_one_moment(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(3)) as store, RatingStore.open(store.path) as reader:
        anna = store.rater("anna")
        one, two = store.assign(anna, 2, NOW)
        cast(store, anna, one, "v1")
        with reader.one_moment():
            before = reader.digest(), reader.rated_items()
            cast(store, anna, two, "v2")
            assert (reader.digest(), reader.rated_items()) == before and reader.progress(NOW).judged_items == 1
            with pytest.raises(RuntimeError):
                reader.rater("bob")
        assert reader.digest() == store.digest() != before[0] and reader.progress(NOW).judged_items == 2


def test_progress_counts_what_can_be_judged(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with open_store(path, make_items(4), "pair") as store:
        judge_all(store, store.rater("anna"), 1)
    with open_store(path, make_items(6, answers=3, round=2), "pair") as store:
        assert store.progress(NOW).items == 4
    with open_store(path, [], "rank") as store:
        assert store.progress(NOW).items == 10
    with open_store(path, make_items(2, answers=2, round=3), "graded") as store:
        assert store.progress(NOW).items == 6 and store.progress(NOW).judged_items == 1


# The file


def test_the_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    umask = os.umask(0)
    try:
        with open_store(path, make_items(1)):
            for file in tmp_path.iterdir():
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        path.chmod(0o644)  # as a copy has it
        with RatingStore.open(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(umask)


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_links_are_not_followed(tmp_path: Path, end: str) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"precious")
    (tmp_path / f"votes.sqlite{end}").symlink_to(target)
    with raises_with(RunError, given="a link"):
        open_store(tmp_path)
    assert target.read_bytes() == b"precious"


def test_what_is_no_store_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with raises_with(RatingError, given="does not exist", todo="sawyer rate"):
        RatingStore.open(path)
    assert not path.exists()
    path.write_bytes(b"")
    with raises_with(RatingError, given="is empty", todo="sawyer rate"):
        RatingStore.open(path)
    path.write_text("not a database at all, and longer than a header of SQLite " * 20)
    with raises_with(RunError, given="damaged, or no store"):
        open_store(path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    with raises_with(RatingError, given="another program's database"):
        open_store(path)
    assert path.read_bytes() == before
    path.unlink()
    path.mkdir()
    with raises_with(RunError, given="no plain file"):
        RatingStore.open(path)


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    with open_store(tmp_path, make_items(1)) as store:
        path = store.path
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=2")
    connection.close()
    before = path.read_bytes()
    for settings in (None, RatingSettings(method="pair")):
        with raises_with(RatingError, given=["newer sawyer", "version 2"], expected="version 1", todo="pip install --upgrade"):
            RatingStore.open(path, settings=settings)
    assert path.read_bytes() == before


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "votes.sqlite")
    with raises_with(RunError, given="no plain file"):
        open_store(tmp_path)


def test_names_that_mean_something_to_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory", "a#b%20.sqlite", "\u00fc \u05d0.sqlite"):
        with RatingStore.open(Path(name), settings=RatingSettings(method="pair")) as store:
            store.add_items(make_items(1))
        assert (tmp_path / name).stat().st_size > 0


def test_settings_are_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    settings = RatingSettings(method="rank", overlap=0.5, repeat_rate=0.1, random_rate=0.3, lease_seconds=60, seed=7)
    RatingStore.open(path, settings=settings).close()
    with RatingStore.open(path) as store:
        assert store.settings == settings
    for wrong in (
        {"method": "stars"},
        {"overlap": -0.1},
        {"repeat_rate": 1.1},
        {"random_rate": math.nan},
        {"lease_seconds": 0},
    ):
        with pytest.raises(RatingError):
            replace(settings, **wrong)  # type: ignore[arg-type]


def test_a_file_system_without_shared_memory(tmp_path: Path) -> None:
    """SQLite's `unix-dotfile` has no WAL, like a network folder: the votes are as safe, readers wait for the writer."""
    path = tmp_path / "votes.sqlite"
    with RatingStore.open(path, settings=RatingSettings(method="pair"), vfs="unix-dotfile") as store:
        store.add_items(make_items(3))
        anna = store.rater("anna")
        assert len(judge_all(store, anna)) == 3
        assert store._database.value("PRAGMA journal_mode") == "delete"
        assert store._database.value("PRAGMA synchronous") == 3  # EXTRA
    with RatingStore.open(path) as store:
        assert len(store.history(anna)) == 3
        assert store._database.value("PRAGMA journal_mode") == "wal"
        assert store._database.value("PRAGMA synchronous") == 2  # FULL


def test_what_another_program_writes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with open_store(path, make_items(2), overlap=0.0) as one, RatingStore.open(path) as two:
        anna, bob = one.rater("anna"), two.rater("bob")
        assert two.rater("Anna") == anna
        first, second = one.assign(anna, 1, NOW), two.assign(bob, 2, NOW)
        assert len(second) == 1 and first[0].item != second[0].item  # no item to both
        cast(two, bob, second[0], "v")
        assert one.progress(NOW) == two.progress(NOW)
        assert two.add_items(make_items(5)) == 3
        assert one.done_and_left(anna, NOW) == (0, 4)


def test_a_failed_commit_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever memory held ahead of the file is read again."""
    with open_store(tmp_path, make_items(3)) as store:
        anna = store.rater("anna")
        handed = store.assign(anna, 1, NOW)[0]

        class Refusing:
            def __init__(self, connection: sqlite3.Connection) -> None:
                self.connection = connection

            def __getattr__(self, name: str) -> object:
                return getattr(self.connection, name)

            def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    raise sqlite3.OperationalError("disk I/O error")
                return self.connection.execute(sql, *parameters)  # type: ignore[arg-type]

        connection = store._database._connection
        monkeypatch.setattr(store._database, "_connection", Refusing(connection))
        with raises_with(RunError, given="cannot be read or written"):
            cast(store, anna, handed, "v")
        with pytest.raises(RunError):
            store.assign(anna, 3, NOW)
        monkeypatch.setattr(store._database, "_connection", connection)
        assert store.stored_votes() == [] and store.progress(NOW).judged_items == 0
        assert store.assign(anna, 1, NOW) == [handed]
        cast(store, anna, handed, "v")
        assert [vote.revision for vote in store.stored_votes()] == [1]
