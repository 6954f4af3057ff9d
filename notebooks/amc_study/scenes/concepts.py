"""The things a scene can show: names, characters of the OpenMoji font, natural colours, patterns.

A name is what a person would type, not Unicode's. Two concepts of the same `kin` never share a scene, because a
phrase that names one would also be true of the other ("car" of a taxi) or look so ("horse" of a jockey's horse).
"""

import hashlib
from dataclasses import dataclass, replace

UNANNOTATED_PER = 5  # one concept in so many, in each category, never has a box in finetuning

FUR = ("brown", "black", "white", "grey")
PAINT = ("red", "blue", "green", "yellow", "orange", "purple", "pink")
CLOTH = (*PAINT, "white", "black")
DRESS = ("red", "blue", "green", "purple", "pink", "white", "black")  # on people, whose skin is yellow
BLOOM = ("red", "yellow", "pink", "purple", "white")
SCALES = ("red", "blue", "green", "yellow", "orange", "purple")
PATTERNS = ("striped", "spotted")


@dataclass(frozen=True)
class Concept:
    """One thing with a name, drawn by one glyph.

    `fill` names the families of the font's palette that `colours` replace; a concept without colours is drawn and
    named as it is. The colour of people is that of their clothes: "wizard in blue".
    """

    name: str
    character: str
    fill: str = ""
    colours: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    kin: str = ""
    plural: str = ""
    category: str = ""
    annotated: bool = True


_C = Concept
_TABLE: dict[str, tuple[Concept, ...]] = {
    "people": (
        _C("police officer", "👮"),
        _C("astronaut", "🧑‍🚀"),
        _C("cook", "🧑‍🍳"),
        _C("farmer", "🧑‍🌾"),
        _C("doctor", "🧑‍⚕️"),
        _C("firefighter", "🧑‍🚒"),
        _C("painter", "🧑‍🎨"),
        _C("singer", "🧑‍🎤", "blue", DRESS[:-2]),
        _C("mechanic", "🧑‍🔧", "blue", DRESS[:-2], kin="wrench"),
        _C("guard", "💂", "red", DRESS),
        _C("prince", "🤴", "pink", DRESS),
        _C("princess", "👸", "pink", DRESS[:-2], plural="princesses"),
        _C("ninja", "🥷"),
        _C("wizard", "🧙", "blue", DRESS, kin="old man"),
        _C("vampire", "🧛"),
        _C("mermaid", "🧜‍♀️"),
        _C("santa claus", "🎅", kin="old man", plural="santa clauses"),
        _C("baby", "👶", "blue", DRESS, plural="babies"),
        _C("bearded man", "🧔", "blue", DRESS, kin="old man", plural="bearded men"),
        _C("old woman", "👵", "blue", DRESS, plural="old women"),
        _C("clown", "🤡"),
        _C("runner", "🏃"),
        _C("surfer", "🏄"),
        _C("swimmer", "🏊"),
        _C("cyclist", "🚴", kin="bicycle"),
        _C("jockey", "🏇", kin="horse"),
        _C("weightlifter", "🏋"),
        _C("skier", "⛷"),
    ),
    "animals": (
        _C("dog", "🐕", "orange", FUR, ("spotted",), kin="dog"),
        _C("cat", "🐈", "orange", (*FUR, "orange"), ("striped",), kin="cat"),
        _C("horse", "🐎", "brown", FUR, ("spotted",), kin="horse"),
        _C("cow", "🐄", "brown", ("brown", "black", "grey")),
        _C("pig", "🐖", "pink", ("pink", "brown", "black", "grey"), ("spotted",)),
        _C("sheep", "🐑", "white", FUR, plural="sheep"),
        _C("camel", "🐪"),
        _C("giraffe", "🦒"),
        _C("elephant", "🐘"),
        _C("rhino", "🦏"),
        _C("hippo", "🦛"),
        _C("rabbit", "🐇"),
        _C("squirrel", "🐿", "brown", ("brown", "grey", "black")),
        _C("bat", "🦇", "black", ("black", "brown", "grey", "purple")),
        _C("kangaroo", "🦘"),
        _C("crow", "🐦‍⬛"),
        _C("penguin", "🐧"),
        _C("duck", "🦆"),
        _C("swan", "🦢"),
        _C("owl", "🦉", "grey", FUR),
        _C("flamingo", "🦩"),
        _C("peacock", "🦚"),
        _C("parrot", "🦜", "red", ("red", "green", "yellow", "orange")),
        _C("frog", "🐸", "green", ("green", "red", "blue", "yellow")),
        _C("crocodile", "🐊"),
        _C("turtle", "🐢"),
        _C("snake", "🐍", "green", (*SCALES, "black", "brown")),
        _C("dragon", "🐉", "green", SCALES),
        _C("dinosaur", "🦕", "brown", ("brown", "green", "blue", "purple", "red"), PATTERNS),
        _C("whale", "🐳"),
        _C("fish", "🐟", "blue", (*SCALES, "pink"), PATTERNS, kin="fish", plural="fish"),
        _C("shark", "🦈", kin="fish"),
        _C("octopus", "🐙", "red", (*SCALES, "pink"), plural="octopuses"),
        _C("snail", "🐌"),
        _C("butterfly", "🦋", "blue", CLOTH, ("spotted",), plural="butterflies"),
        _C("caterpillar", "🐛"),
        _C("bee", "🐝"),
        _C("ladybug", "🐞", "red", ("red", "yellow", "orange")),
        _C("spider", "🕷"),
        _C("crab", "🦀", "red", ("red", "orange", "blue", "purple")),
        _C("tiger", "🐅", kin="cat"),
        _C("monkey", "🐵"),
        _C("wolf", "🐺", kin="dog", plural="wolves"),
        _C("fox", "🦊", plural="foxes"),
        _C("lion", "🦁", kin="cat"),
        _C("bear", "🐻", "brown", FUR, kin="bear"),
        _C("panda", "🐼", kin="bear"),
        _C("deer", "🦌", plural="deer"),
        _C("jellyfish", "🪼", "purple", ("purple", "pink", "blue", "red"), kin="fish", plural="jellyfish"),
    ),
    "food": (
        _C("watermelon", "🍉"),
        _C("lemon", "🍋"),
        _C("banana", "🍌"),
        _C("pineapple", "🍍"),
        _C("apple", "🍎", "red", ("red", "yellow", "green")),
        _C("strawberry", "🍓", plural="strawberries"),
        _C("tomato", "🍅", plural="tomatoes"),
        _C("carrot", "🥕"),
        _C("bell pepper", "🫑", "red", ("red", "yellow", "orange", "green")),
        _C("croissant", "🥐"),
        _C("pretzel", "🥨"),
        _C("hamburger", "🍔"),
        _C("pizza slice", "🍕"),
        _C("hot dog", "🌭"),
        _C("egg", "🥚", "white grey", ("white", "brown", *PAINT), PATTERNS),
        _C("ice cream cone", "🍦"),
        _C("donut", "🍩"),
        _C("cookie", "🍪"),
        _C("cupcake", "🧁", "pink", ("pink", "brown", "white", "green")),
        _C("candy", "🍬", "green", CLOTH, PATTERNS, plural="candies"),
        _C("lollipop", "🍭", "red", PAINT),
    ),
    "plants": (
        _C("pine tree", "🌲", kin="tree"),
        _C("tree", "🌳", "green", ("green", "orange", "yellow", "red"), kin="tree"),
        _C("palm tree", "🌴", kin="tree"),
        _C("cactus", "🌵", plural="cactuses"),
        _C("mushroom", "🍄", "red", ("red", "brown", "orange", "purple")),
        _C("tulip", "🌷", "orange", (*BLOOM, "orange")),
        _C("rose", "🌹", "red", BLOOM),
        _C("sunflower", "🌻"),
        _C("potted plant", "🪴"),
        _C("clover", "🍀"),
        _C("maple leaf", "🍁", "orange", ("orange", "red", "green", "yellow", "brown"), plural="maple leaves"),
        _C("lotus", "🪷", "pink", BLOOM, plural="lotuses"),
    ),
    "vehicles": (
        _C("car", "🚗", "red", (*CLOTH, "grey"), kin="car"),
        _C("taxi", "🚕", kin="car"),
        _C("racing car", "🏎", "red", PAINT, kin="car"),
        _C("bus", "🚌", "red", PAINT, plural="buses"),
        _C("ambulance", "🚑", kin="van"),
        _C("fire truck", "🚒", kin="truck"),
        _C("truck", "🚛", "black", CLOTH, kin="truck"),
        _C("van", "🚚", "white", CLOTH, kin="van"),
        _C("tractor", "🚜", "green", PAINT),
        _C("motorcycle", "🏍", "red", PAINT, kin="scooter"),
        _C("moped", "🛵", "red", PAINT, kin="scooter"),
        _C("wheelchair", "🦽"),
        _C("bicycle", "🚲", "red", (*PAINT, "black"), kin="bicycle"),
        _C("scooter", "🛴", kin="scooter"),
        _C("skateboard", "🛹"),
        _C("steam train", "🚂", kin="train"),
        _C("tram", "🚋", "red", PAINT, kin="train"),
        _C("canoe", "🛶", "blue", PAINT, kin="boat"),
        _C("sailboat", "⛵", "grey white", (*PAINT, "white"), kin="boat"),
        _C("ship", "🚢", kin="boat"),
        _C("airplane", "✈", "grey", CLOTH),
        _C("helicopter", "🚁", "red", CLOTH),
        _C("rocket", "🚀", "red", PAINT),
        _C("flying saucer", "🛸"),
        _C("parachute", "🪂", "green", PAINT),
    ),
    "clothes": (
        _C("crown", "👑"),
        _C("top hat", "🎩"),
        _C("cap", "🧢", "green", CLOTH, PATTERNS),
        _C("shirt", "👕", "blue", CLOTH, PATTERNS),
        _C("scarf", "🧣", "red", CLOTH, PATTERNS, plural="scarves"),
        _C("coat", "🧥", "brown", (*CLOTH, "brown"), PATTERNS),
        _C("sock", "🧦", "orange", CLOTH, PATTERNS),
        _C("dress", "👗", "blue", CLOTH, PATTERNS, plural="dresses"),
        _C("boot", "👢", "brown", (*CLOTH, "brown"), PATTERNS),
    ),
    "objects": (
        _C("backpack", "🎒", "red", CLOTH, PATTERNS),
        _C("handbag", "👜", "brown", (*CLOTH, "brown"), PATTERNS, kin="bag"),
        _C("purse", "👛", "purple", CLOTH, PATTERNS, kin="bag"),
        _C("watch", "⌚", plural="watches"),
        _C("laptop", "💻"),
        _C("camera", "📷"),
        _C("light bulb", "💡"),
        _C("candle", "🕯", "white", CLOTH),
        _C("book", "📕", "red", CLOTH, PATTERNS),
        _C("envelope", "✉", "grey", CLOTH, PATTERNS),
        _C("pencil", "✏", "orange", PAINT),
        _C("key", "🔑"),
        _C("hammer", "🔨"),
        _C("wrench", "🔧", kin="wrench", plural="wrenches"),
        _C("chair", "🪑", "yellow", CLOTH),
        _C("bed", "🛏", "blue", CLOTH),
        _C("broom", "🧹"),
        _C("basket", "🧺"),
        _C("bucket", "🪣", "blue", CLOTH, PATTERNS),
        _C("umbrella", "☂", "purple", CLOTH, PATTERNS),
        _C("cup", "☕", "white grey", CLOTH, PATTERNS),
        _C("teapot", "🫖", "grey", CLOTH, PATTERNS),
        _C("wine glass", "🍷", plural="wine glasses"),
        _C("telephone", "☎", "red", CLOTH),
        _C("lantern", "🏮", "red", PAINT, PATTERNS),
        _C("balloon", "🎈", "red", CLOTH, PATTERNS),
        _C("kite", "🪁", "pink", PAINT),
        _C("gift", "🎁", "yellow", ("yellow", "blue", "green", "purple", "pink", "white"), PATTERNS),
        _C("guitar", "🎸", "red", PAINT),
        _C("trumpet", "🎺"),
        _C("drum", "🥁", "red", CLOTH, PATTERNS),
        _C("soccer ball", "⚽"),
        _C("anchor", "⚓"),
        _C("mailbox", "📫", "blue", PAINT, plural="mailboxes"),
        _C("diamond", "💎", "blue", PAINT),
        _C("house", "🏠"),
        _C("castle", "🏰"),
        _C("tent", "⛺", "yellow", PAINT),
        _C("church", "⛪", plural="churches"),
    ),
}


def _with_annotation(category: str, concepts: tuple[Concept, ...]) -> list[Concept]:
    """Mark a fixed fifth of a category as never annotated: those whose names' hashes come first."""
    by_hash = sorted(concepts, key=lambda concept: hashlib.sha256(concept.name.encode()).hexdigest())
    unannotated = {concept.name for concept in by_hash[: round(len(concepts) / UNANNOTATED_PER)]}
    return [
        replace(c, category=category, plural=c.plural or f"{c.name}s", annotated=c.name not in unannotated)
        for c in concepts
    ]


CONCEPTS: tuple[Concept, ...] = tuple(c for name, group in _TABLE.items() for c in _with_annotation(name, group))
