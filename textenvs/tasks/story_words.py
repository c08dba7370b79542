"""The words of small stories: names, animals, places and things. Other tasks take their names from here as well.

The shifted words are those of the stories' shifted split: no story of the corpus has one of them in its opening.
"""

BOYS = (
    "Tim", "Sam", "Tom", "Max", "Ben", "Leo", "Jack", "Pip", "Finn", "Bob", "Ned", "Gus", "Otto", "Joe", "Toby",
    "Fred", "Luke", "Dan",
)  # fmt: skip
GIRLS = (
    "Lily", "Anna", "Lucy", "Sue", "Zoe", "Ella", "Ruby", "Daisy", "Nina", "Kate", "Emma", "Amy", "Nora", "Polly",
    "Jane", "Molly", "Tess", "Clara",
)  # fmt: skip
ANIMALS = (
    "fox", "bear", "rabbit", "mouse", "cat", "dog", "duck", "frog", "bird", "pig", "cow", "horse", "lamb", "lion",
    "monkey", "owl", "squirrel", "turtle", "goat", "hedgehog", "elephant", "deer", "bunny", "puppy", "kitten", "pony",
    "sheep", "goose", "wolf", "tiger",
)  # fmt: skip
PLACES = (
    ("near the", "river"), ("in the", "forest"), ("by the", "lake"), ("on a", "farm"), ("near the", "sea"),
    ("on a", "hill"), ("in a", "garden"), ("in a", "cave"), ("by a", "pond"), ("near a", "park"),
    ("near the", "mountain"), ("in a", "village"), ("near a", "bridge"), ("in a", "barn"), ("in a", "castle"),
    ("on an", "island"), ("by the", "road"), ("near a", "school"), ("in a", "meadow"), ("in the", "jungle"),
    ("by the", "beach"), ("in a", "tower"), ("in the", "valley"), ("near a", "mill"), ("in a", "cottage"),
    ("by the", "woods"), ("by a", "stream"), ("in a", "house"), ("near a", "field"), ("in a", "town"),
    ("near a", "church"), ("in the", "desert"), ("by the", "harbor"), ("near a", "windmill"), ("in a", "tent"),
    ("near the", "station"),
)  # fmt: skip
OBJECTS = (
    "ball", "kite", "boat", "book", "hat", "drum", "bell", "cup", "stone", "shell", "feather", "basket", "box",
    "blanket", "doll", "wagon", "bike", "balloon", "scarf", "coat", "umbrella", "whistle", "lamp", "map", "coin",
    "ring", "rope", "bucket", "picture", "puzzle", "spoon", "pot", "train", "truck", "robot", "key", "button", "flute",
    "clock", "chair", "pencil", "mirror", "pillow", "ladder", "candle", "shoe", "sled", "plane", "mask", "jar",
)  # fmt: skip
OBJECT_ADJECTIVES = (
    "red", "blue", "green", "yellow", "big", "small", "old", "new", "round", "tiny", "white", "brown", "orange",
    "pink", "purple", "wooden", "shiny", "striped", "black", "gray",
)  # fmt: skip
FAMILY = ("mother", "father", "brother", "sister", "grandmother", "grandfather", "uncle", "aunt", "cousin")
FOODS = (
    "berries", "cake", "soup", "bread", "apples", "cookies", "pie", "pears", "carrots", "corn", "cheese", "honey",
    "pancakes", "rice", "grapes", "cherries", "beans", "noodles",
)  # fmt: skip
GOALS = (
    "market", "zoo", "library", "farm", "bakery", "store", "beach", "park", "pond", "circus", "museum", "playground",
    "kitchen", "harbor", "station", "office",
)  # fmt: skip

SHIFTED_BOYS = ("Theo", "Bill", "Don", "Sid")
SHIFTED_GIRLS = ("Pam", "Ina", "Lin", "Bea")
SHIFTED_ANIMALS = ("camel", "snail", "beaver", "donkey", "hen", "seal")
SHIFTED_PLACES = (
    ("in a", "shed"), ("in a", "hut"), ("near a", "dock"), ("near a", "shop"), ("near a", "mall"), ("in a", "hall"),
    ("in a", "lab"), ("in a", "den"), ("by the", "bay"), ("by a", "well"),
)  # fmt: skip

COUNTERPARTS = {
    **dict(zip((*BOYS, *SHIFTED_BOYS), (*GIRLS, *SHIFTED_GIRLS), strict=True)),
    "He": "She", "he": "she", "His": "Her", "his": "her", "boy": "girl",
}  # fmt: skip
COUNTERPARTS |= {word: other for other, word in COUNTERPARTS.items()}
"""Each name, and each word that tells a gender, to its counterpart of the other one, for `Task.counterpart`."""
