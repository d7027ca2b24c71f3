"""Word tables that fill the task wordings."""

NAMES = (
    "Ada", "Ahmed", "Alice", "Amara", "Anna", "Ben", "Carla", "Chen", "Clara", "Daniel",
    "Diego", "Elena", "Emma", "Eva", "Farid", "Felix", "Grace", "Hana", "Hugo", "Ivan",
    "Jonas", "Julia", "Kofi", "Lena", "Leo", "Lucia", "Maria", "Marta", "Mia", "Nadia",
    "Nina", "Noah", "Oscar", "Paul", "Priya", "Ravi", "Rosa", "Sam", "Tom", "Yuki",
)  # fmt: skip

# (singular, plural); from box on the plural is more than an added s, toy apart.
ITEMS = (
    ("apple", "apples"), ("bag", "bags"), ("ball", "balls"), ("banana", "bananas"), ("bell", "bells"),
    ("book", "books"), ("bottle", "bottles"), ("button", "buttons"), ("cake", "cakes"),
    ("candle", "candles"), ("card", "cards"), ("carrot", "carrots"), ("chair", "chairs"), ("coin", "coins"),
    ("cookie", "cookies"), ("cup", "cups"), ("egg", "eggs"), ("flower", "flowers"), ("hat", "hats"),
    ("key", "keys"), ("lamp", "lamps"), ("lemon", "lemons"), ("letter", "letters"), ("map", "maps"),
    ("marble", "marbles"), ("mug", "mugs"), ("nut", "nuts"), ("orange", "oranges"), ("pear", "pears"),
    ("pen", "pens"), ("pencil", "pencils"), ("plate", "plates"), ("ring", "rings"), ("shell", "shells"),
    ("spoon", "spoons"), ("stamp", "stamps"), ("sticker", "stickers"), ("stone", "stones"),
    ("ticket", "tickets"), ("towel", "towels"), ("box", "boxes"), ("brush", "brushes"),
    ("glass", "glasses"), ("berry", "berries"), ("cherry", "cherries"), ("peach", "peaches"),
    ("watch", "watches"), ("toy", "toys"), ("knife", "knives"), ("loaf", "loaves"), ("leaf", "leaves"),
    ("scarf", "scarves"),
)  # fmt: skip

CITIES = (
    "Athens", "Bergen", "Berlin", "Bern", "Boston", "Cairo", "Cork", "Delhi", "Dublin", "Geneva",
    "Lagos", "Lima", "Lisbon", "London", "Lyon", "Madrid", "Milan", "Nairobi", "Oslo", "Paris",
    "Porto", "Prague", "Quito", "Riga", "Rome", "Seoul", "Tokyo", "Turin", "Vienna", "Warsaw",
)  # fmt: skip

# Invented, so that the distances of the word problems contradict no map.
TOWNS = (
    "Ashby", "Birchfield", "Cedarton", "Dunmore", "Eastvale", "Fernhill", "Glenwood", "Hartley", "Ivybridge",
    "Kingsmere", "Larkfield", "Millbrook", "Northgate", "Oakham", "Pinehurst", "Redcliff", "Stonewell",
    "Thornbury", "Underwood", "Westbay",
)  # fmt: skip

COLORS = ("black", "blue", "brown", "gold", "green", "grey", "orange", "pink", "purple", "red", "white",
          "yellow")  # fmt: skip

JOBS = ("artist", "baker", "cook", "dentist", "doctor", "driver", "farmer", "gardener", "lawyer", "nurse",
        "painter", "pilot", "singer", "tailor", "teacher", "writer")  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
          "October", "November", "December")  # fmt: skip

EVENTS = ("concert", "exam", "game", "lesson", "meeting", "party", "picnic", "race", "show", "visit",
          "wedding", "workshop")  # fmt: skip

# Pairs that can be said of a thing.
OPPOSITES = (
    ("big", "small"), ("hot", "cold"), ("old", "new"), ("open", "closed"), ("full", "empty"),
    ("wet", "dry"), ("clean", "dirty"), ("long", "short"), ("hard", "soft"), ("heavy", "light"),
    ("thick", "thin"), ("wide", "narrow"), ("cheap", "expensive"), ("strong", "weak"), ("round", "flat"),
    ("bright", "dark"),
)  # fmt: skip

# Single words for the text tasks (upper case, join, first word, ...).
WORDS = (
    "apple", "autumn", "bird", "bread", "bridge", "chair", "cloud", "coffee", "dream", "earth",
    "field", "fire", "forest", "garden", "house", "island", "lake", "lamp", "light", "market",
    "milk", "moon", "morning", "mountain", "music", "night", "ocean", "paper", "rain", "river",
    "road", "school", "sea", "silver", "snow", "spring", "star", "stone", "storm", "summer",
    "sun", "table", "tea", "train", "tree", "valley", "water", "wind", "window", "winter",
)  # fmt: skip
