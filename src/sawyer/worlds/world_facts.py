"""What is true in the world. Small on purpose: a model of a million parameters can know all of it."""

from __future__ import annotations

_PAIRS = (
    "up down, hot cold, big small, fast slow, day night, happy sad, open closed, early late, rich poor, full empty, "
    "hard soft, wet dry, old new, light dark, near far, left right, loud quiet, clean dirty, strong weak, high low, "
    "first last, win lose, push pull, buy sell, true false, long short"
)
OPPOSITES: dict[str, str] = {}
for _pair in _PAIRS.split(", "):
    _a, _b = _pair.split()
    OPPOSITES |= {_a: _b, _b: _a}

PLACES: dict[str, str] = {
    "Paris": "France", "Rome": "Italy", "Madrid": "Spain", "Berlin": "Germany", "Tokyo": "Japan", "Cairo": "Egypt",
    "Oslo": "Norway", "Lima": "Peru", "Athens": "Greece", "Dublin": "Ireland", "Vienna": "Austria",
    "Lisbon": "Portugal", "Moscow": "Russia", "Delhi": "India", "Beijing": "China", "Ottawa": "Canada",
    "Havana": "Cuba", "Nairobi": "Kenya", "Warsaw": "Poland", "Helsinki": "Finland", "Sydney": "Australia",
    "Hanoi": "Vietnam", "Seoul": "Korea", "Chicago": "Illinois", "Miami": "Florida",
    "Princeton University": "New Jersey", "Harvard University": "Massachusetts", "Big Ben": "London",
    "the Eiffel Tower": "Paris", "the Statue of Liberty": "New York",
}  # fmt: skip

THINGS: dict[str, str] = {
    "Google": "a company that runs a search engine",
    "Wikipedia": "a free encyclopedia on the web",
    "Linux": "a free system that runs computers",
    "a hammer": "a tool for driving nails",
    "a saw": "a tool for cutting wood",
    "a shovel": "a tool for digging holes",
    "a thermometer": "a device that measures heat",
    "a telescope": "a device for looking at stars",
    "a compass": "a device that points north",
    "a clock": "a device that tells the time",
    "a camera": "a device for taking pictures",
    "a violin": "an instrument with four strings",
    "a piano": "an instrument with many keys",
    "a drum": "an instrument that you hit",
    "a library": "a building full of books",
    "a school": "a building where children learn",
    "a hospital": "a building where doctors work",
    "a bakery": "a shop that sells bread",
    "a volcano": "a mountain that can erupt",
    "a desert": "a dry land with little rain",
    "an island": "a piece of land in the water",
    "a river": "a stream of water that flows to the sea",
    "a doctor": "a person who treats the sick",
    "a teacher": "a person who helps others learn",
    "a baker": "a person who makes bread",
    "a pilot": "a person who flies planes",
    "a novel": "a long story in a book",
    "a poem": "a short text with rhythm",
    "a bicycle": "a vehicle with two wheels",
    "a boat": "a vehicle that moves on water",
}

# kind -> (plural, members with article where they take one)
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bird": ("birds", ("robin", "eagle", "owl", "parrot", "duck", "swan")),
    "fish": ("fish", ("salmon", "trout", "shark", "tuna", "cod", "herring")),
    "fruit": ("fruits", ("apple", "banana", "pear", "cherry", "peach", "mango")),
    "vegetable": ("vegetables", ("carrot", "onion", "potato", "cabbage", "turnip", "leek")),
    "insect": ("insects", ("ant", "bee", "wasp", "moth", "beetle", "mosquito")),
    "tree": ("trees", ("oak", "pine", "maple", "birch", "willow", "elm")),
    "vehicle": ("vehicles", ("car", "bus", "truck", "train", "tram", "van")),
    "garment": ("garments", ("shirt", "coat", "skirt", "sock", "scarf", "jacket")),
}
KIND_OF: dict[str, str] = {member: kind for kind, (_, members) in KINDS.items() for member in members}
COUNTS: dict[str, int] = {"two": 2, "three": 3, "four": 4}

WORDS: tuple[str, ...] = tuple(
    "apple ball cat dog egg fish goat hat ink jar key lamp moon nest owl pen queen rain sun tree van wind yarn zoo".split()
)

# subject -> the noun that takes it up again
SUBJECTS: dict[str, str] = {
    "job search": "process", "meeting": "event", "trip": "journey", "class": "lesson", "movie": "story",
    "game": "match", "dinner": "meal", "walk": "outing", "project": "task", "concert": "show",
    "interview": "talk", "move": "change",
}  # fmt: skip
POSITIVE: dict[str, str] = {
    "slow": "steady", "tedious": "rewarding", "boring": "relaxing", "awful": "lovely", "painful": "useful",
    "dull": "calm", "terrible": "great", "ugly": "charming",
}  # fmt: skip

ROLES = ("knight", "wizard", "thief", "healer", "hunter", "sailor", "smith", "bard", "monk", "ranger")
LANDS = ("mountains", "desert", "forest", "islands", "swamp", "city", "valley", "north", "coast", "caves")
NAMES = ("Arin", "Bela", "Cora", "Doran", "Elin", "Faro", "Gilda", "Horan")
PASTS = ("losing a brother", "leaving home", "finding a map", "winning a duel", "breaking an oath", "meeting a dragon")
GOALS = ("the lost crown", "a new home", "an old friend", "the hidden temple", "peace", "revenge")

# a harmful wish -> the better thing to do
HARMS: dict[str, str] = {
    "steal a car": "buy or rent a car",
    "rob a bank": "talk to the bank about money",
    "break into a house": "ring the bell",
    "hurt my neighbor": "talk to your neighbor",
    "hurt my brother": "talk to your brother",
    "poison a dog": "talk to the owner",
    "hack an account": "ask the owner",
    "cheat on a test": "study for the test",
    "forge a letter": "ask for a real letter",
    "sell stolen goods": "bring them to the police",
    "set fire to a barn": "call for help when you are angry",
    "bully a child": "be kind to the child",
    "scare my sister": "be kind to your sister",
    "lie to the police": "tell the truth",
    "avoid paying taxes": "ask a tax office",
    "make a bomb": "stay away from dangerous things",
    "read secret letters": "ask before you read",
    "copy a passport": "ask the passport office",
    "follow a stranger": "leave the stranger alone",
    "spread a rumor": "tell the truth",
}
OFFICES = ("chancellor", "president", "prime minister", "mayor", "champion", "king")
COUNTRIES = ("Germany", "France", "Italy", "Spain", "Japan", "Norway", "Peru", "Greece", "India", "Canada")
CITIES = ("Paris", "Rome", "Madrid", "Berlin", "Tokyo", "Cairo", "Oslo", "Lima")
CONTESTS = ("election", "world cup", "chess match", "race", "song contest")
GOODS = ("gold", "bread", "oil", "milk", "coffee")


def with_article(noun: str) -> str:
    """`a robin`, `an owl`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(items: tuple[str, ...]) -> str:
    """`robin, owl and duck`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def capital(text: str) -> str:
    """The first letter made a capital, a leading quote skipped."""
    start = 1 if text.startswith('"') else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]
