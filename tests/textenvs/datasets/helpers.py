"""Writes small files of rows, and reads all of a data set back."""

import csv
import io
import json

from textenvs.tasks import SPLITS


def write(tmp_path, lines, name="texts.jsonl"):
    file = tmp_path / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def prompts(task):
    return {split: [task.example(split, index).prompt for index in range(task.num_examples(split))] for split in SPLITS}


def all_examples(task):
    return [task.example(split, index) for split in SPLITS for index in range(task.num_examples(split))]


def write_public_data(folder):
    """Writes a few rows of every public data set, in the form in which its authors publish it, with texts of our own.

    Returns the folder, for `TEXTENVS_DATA`: it has a sub-folder for each set.
    """
    animals = ["fox", "hare", "crow", "toad", "goat", "wolf", "duck", "mole", "bear", "seal", "lynx", "newt", "swan"]

    def jsonl(set_name, name, rows):
        put(set_name, name, "".join(json.dumps(row) + "\n" for row in rows))

    def put(set_name, name, text):
        file = folder / set_name / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def table(set_name, name, header, rows):
        lines = io.StringIO()
        csv.writer(lines).writerows([header, *rows])
        put(set_name, name, lines.getvalue())

    def of(split):
        return {"train": animals[:9], "dev": animals[9:11], "test": animals[11:]}[split]

    for split in ("train", "dev", "test"):
        scenes = [
            {
                "concept_set": f"{name}_N#jump_V#wall_N",
                "scene": [f"A {name} jumped the wall.", f"The {name} jumps a wall."],
            }
            for name in of(split)
        ]
        jsonl("commongen", f"commongen.{split}.jsonl", scenes)
        talk = "#Person1#: Did you see the {0}?\n#Person2#: Yes, it sat by the door."
        summaries = {
            "train": ("summary",), "dev": ("summary",), "test": ("summary1", "summary2", "summary3")
        }[split]  # fmt: skip
        dialogues = [
            {"fname": name, "dialogue": talk.format(name), "topic": name}
            | {column: f"#Person2# saw the {name} ({column[7:] or 'once'})." for column in summaries}
            for name in of(split)
        ]
        jsonl("dialogsum", f"dialogsum.{split}.jsonl", dialogues)
        facts = [
            (f"name[The {name}], eatType[pub], near[Café {split}]", f"{text} {name} is a pub near Café {split}.")
            for name in of(split)
            for text in ("The", "Well, the")
        ]
        table(
            "e2e",
            {"train": "trainset.csv", "dev": "devset.csv", "test": "testset_w_refs.csv"}[split],
            ("mr", "ref"),
            facts,
        )
        stem = {"train": "train", "dev": "val", "test": "test_2016_flickr"}[split]
        put("multi30k", f"{stem}.en", "".join(f"A {name} sleeps.\n" for name in of(split)))
        put("multi30k", f"{stem}.de", "".join(f"Ein Tier schläft, ein {name}.\n" for name in of(split)))
        papers = [
            {"source": [f"We study the {name}.", "It is small.", "We count its steps."],
             "target": [f"We count the steps of the {name}.", f"A study of the {name}."][: 1 + (split != "train")]}
            for name in of(split)
        ]  # fmt: skip
        jsonl("scitldr", f"{split}.jsonl", papers)
        conversations = [
            ("I cook.", f"I own a {name}.", f"User 1: Hi!\nUser 2: Hello!\nUser 1: Any pets?\nUser 2: Yes, a {name}.")
            for name in of(split)
        ]
        header = ("user 1 personas", "user 2 personas", "Best Generated Conversation")
        stem = {"dev": "valid"}.get(split, split)
        table("persona_chat", f"Synthetic-Persona-Chat_{stem}.csv", header, conversations)

    def sums(names):
        return [
            {"question": f"A {name} has {place} eggs and lays 2. How many?",
             "answer": f"It has {place} + 2 = <<{place}+2={place + 2}>>{place + 2} eggs.\n#### {place + 2}"}
            for place, name in enumerate(names, start=1)
        ]  # fmt: skip

    jsonl("gsm8k", "train.jsonl", sums(animals[:11]))
    jsonl("gsm8k", "test.jsonl", sums(animals[11:]))

    def articles(names):
        questions = {
            name: [{"question": f"Where does the {name} sleep?", "id": name,
                    "answers": [{"text": "in a hole", "answer_start": 16}, {"text": "a hole", "answer_start": 19}]}]
            for name in names
        }  # fmt: skip
        paragraphs = [{"context": f"The {name} sleeps in a hole.", "qas": asked} for name, asked in questions.items()]
        return json.dumps({"version": "1.1", "data": [{"title": "Animals", "paragraphs": paragraphs}]})

    put("squad", "train-v1.1.json", articles(animals[:11]))
    put("squad", "dev-v1.1.json", articles(animals[11:]))
    good = [
        "a wonderful film about a {0} and the joy of love .",
        "the {0} is lovely and the jokes are great , great fun .",
    ]
    bad = [
        "a terrible film about a {0} and an awful waste of time .",
        "the {0} is boring , and the jokes are bad and sad .",
    ]
    for name, texts in (("pos", good), ("neg", bad)):
        put(
            "sentence_polarity",
            f"rt-polarity.{name}",
            "".join(f"{text.format(a)}\n" for text in texts for a in animals),
        )
    story = "Once there was a little {0} who lived by a big lake. She was happy and loved her good friends. "
    story += "They played until the sun went down."
    for name, kept in (("train", animals[:11]), ("valid", animals[11:])):
        put("tinystories", f"TinyStories-{name}.txt", "".join(f"{story.format(a)}\n<|endoftext|>\n" for a in kept))
    return folder
