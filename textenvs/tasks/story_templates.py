"""The sentences of the stories, as templates by plot and mood.

A template is text with slots in braces ("{N} found {a}.") and choices in brackets ("[smiled|laughed]"). The slots are:

    {N} {he} {He} {his} {His} {him}   the hero's name and pronouns
    {k} {a_k}                         the kind of hero: "fox", "a fox"
    {p} {in_place}                    the hero's place: "river", "near the river"
    {a} {A} {ao} {o}                  the story's thing: "a red ball", "A red ball", "red ball", "ball"
    {f} {af} {Af}                     another animal: "fox", "a fox", "A fox"
    {w}                               one of the hero's family ("mother")
    {e} {g}                           something to eat ("berries"), somewhere to go ("market")

The words that carry a mood are words of the VADER lexicon; a neutral sentence has none of them.
"""

from __future__ import annotations

from collections.abc import Mapping

MOODS = ("happy", "sad")
"""The moods that a header can name. A sentence can also be neutral."""

SENTENCE_MOODS = ("happy", "sad", "neutral")
"""The moods of sentences."""

OPENINGS = (
    "Once upon a time there was a [little|small|young] {k} named {N}. {N} lived {in_place}.",
    "Once upon a time, {a_k} named {N} lived {in_place}.",
    "Once there was a [little|small|young|brown|quiet] {k} named {N}. {He} lived {in_place}.",
    "There once was a [little|small|young|tall] {k} named {N} who lived {in_place}.",
    "{N} was a [little|small|young|quiet] {k}. {He} lived {in_place} with {his} {w}.",
    "Long ago, a [little|small|young] {k} lived {in_place}. {His} name was {N}.",
)
TIMES = ("One day,", "One morning,", "One afternoon,", "One evening,", "Then one day,")

# The first sentence of each plot. It comes right after "One day,", so it begins in lower case unless with a name.
START: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "thing": {
        "happy": (
            "{N} found {a} near the {p} and [smiled|laughed|giggled].",
            "{his} {w} gave {him} {a} as a [gift|surprise|reward].",
            "{N} made {a} and was [very|so|really] [happy|glad|proud|excited].",
            "{N} won {a} in a [fun|great] [game|race].",
            "{N} got {a}, and {he} [loved|liked|enjoyed] it very much.",
            "{N} saw {a} and laughed with joy.",
            "a [kind|friendly|nice] {f} gave {N} {a}.",
            "{N} was [happy|glad|excited] because {he} had {a}.",
            "{N} fixed {his} {ao} and felt [proud|great|happy|clever].",
            "{N} went out to play with {his} {ao}.",
            "{N} shared {his} {ao} with a good friend.",
        ),
        "sad": (
            "{N} lost {his} {ao} near the {p} and [cried|was sad|felt bad].",
            "{N} broke {his} {ao} and started to cry.",
            "{a} [fell|dropped] on {N} and hurt {his} [head|leg|back|arm|knee|ear].",
            "a [mad|bad|cruel] {f} took the {ao} away from {N}.",
            "{N} dropped {his} {ao} in the mud and was [very|so] [sad|upset|angry].",
            "{N} wanted {a}, but {he} was too [sick|weak|scared] to get it.",
            "{N} could not find {his} {ao} and [cried|was worried|felt sad].",
            "the wind took {his} {ao}, and {N} [cried|was upset|felt lonely].",
            "{N} had {a}, but it was [broken|ruined|ugly].",
            "{N} missed {his} old {o} and was not happy.",
            "{N} hated {his} {ao} because it was [ugly|dirty|scary].",
        ),
        "neutral": (
            "{N} found {a} near the {p}.",
            "{N} saw {a} under a [tree|bush|table|bench|window|leaf|rug].",
            "{his} {w} showed {him} {a}.",
            "{N} put {a} in {his} [room|bag|bed|pocket|closet].",
            "{N} took {his} {ao} and walked [down the road|up the hill|to the water|to the {g}|through the rain].",
            "{N} took {his} {ao} across the street.",
            "{af} came by with {a}.",
            "{N} looked at {a} for a long time.",
            "{N} was looking for {his} {ao}.",
            "{N} [painted|washed|wrapped|opened] {his} {ao}.",
            "{N} [carried|brought|pushed|pulled] {a} to the {g}.",
            "{N} asked {his} {w} for {a}.",
        ),
    },
    "friend": {
        "happy": (
            "{N} met a [kind|friendly|nice|funny] {f}, and they played together.",
            "{his} best friend, {af}, came to play.",
            "a [brave|kind|clever] {f} helped {N} [find the way home|cross the water|climb the hill|carry the {e}].",
            "{N} shared {his} {e} with {af}, and they became [good|best] friends.",
            "a [funny|cheerful] {f} made {N} laugh all day.",
            "{N} danced with {af}, and they laughed.",
            "{N} gave {af} a [big|warm] hug.",
            "{N} saved {af} from the water and was [proud|happy|brave].",
            "{N} and {af} had [fun|so much fun|a great time] near the {p}.",
            "{N} thanked {af} for the [lovely|wonderful] {e}.",
        ),
        "sad": (
            "{N} met [an angry|a scary|a bad|a cruel|an evil] {f} and ran away.",
            "{af} pushed {N}, and it hurt.",
            "{af} got [sick|hurt], and {N} [cried|was sad|was worried].",
            "{N} had a [bad|terrible|horrible] fight with {af}.",
            "{N} saw {af} crying because it was lost.",
            "{N} was [lonely|sad] because the {f} had left.",
            "{N} saw {af} fall and get hurt.",
            "a [mad|bad|cruel] {f} yelled at {N}, and {he} [cried|felt sad|was scared].",
            "{af} lied to {N}, and {he} was [upset|angry|not happy].",
            "{N} waited for {af}, but it did not want to play.",
            "{af} was [stuck|trapped] in a hole and screamed.",
        ),
        "neutral": (
            "{N} met {af} near the {p}.",
            "{N} and {af} walked [down the road|up the hill|to the {g}|around the {p}].",
            "{af} came to the {p} and sat next to {N}.",
            "{N} saw {af} eating [some|all the] {e}.",
            "{N} asked {af} about the [weather|moon|road|stars|news|snow].",
            "{af} said hello to {N}.",
            "{N} followed {af} [around the {p}|into the tall grass|to the {g}].",
            "{af} knocked on the door.",
            "{N} heard {af} [in the bushes|behind a tree|at the window|on the roof|under the floor].",
            "{N} gave some {e} to {af}.",
        ),
    },
    "outing": {
        "happy": (
            "{N} went to the {g} and had [so much|a lot of|great] fun.",
            "the sun was [bright|warm], and {N} [felt happy|smiled|was glad].",
            "{N} sang a [happy|lovely|funny|cheerful] song.",
            "{N} went to a [fun|great|big] party near the {p}.",
            "{N} ate [sweet|delicious|yummy] {e} with {his} {w}.",
            "{N} learned to [swim|dance|read|paint|cook|write|sail|skate] and was [so|very] [proud|happy|excited].",
            "{N} had a [wonderful|beautiful|lovely] dream.",
            "{his} {w} took {him} to the {g}, and {he} loved it.",
            "{N} saw a beautiful [rainbow|flower|star|butterfly|swan|rose] over the {p}.",
            "{N} woke up with a big smile.",
            "{N} played a [fun|silly] game with {his} {w} and laughed.",
        ),
        "sad": (
            "a big storm came, and {N} was [very|so] [scared|worried|upset].",
            "{N} got lost on the way to the {g}.",
            "{N} fell and hurt {his} [leg|head|arm|back].",
            "{N} was [very|so] sick and stayed in bed.",
            "{N} was all alone and felt [sad|lonely|scared].",
            "{N} had a [bad|scary|terrible|horrible] dream and cried.",
            "{his} {w} was [angry|mad|upset] with {him}.",
            "the rain ruined the {e}, and {N} was [sad|upset|not happy].",
            "{N} was tired and [sad|lonely|worried|nervous].",
            "{N} went to the {g}, but {he} had a terrible time.",
            "{N} did not like the {g} and wanted to cry.",
        ),
        "neutral": (
            "{N} went to the {g} with {his} {w}.",
            "{N} walked [down the road|up the hill|to the water|around the {p}].",
            "it rained, so {N} stayed inside.",
            "{N} sat under a tree and counted the [clouds|birds|leaves|ants|sheep|flowers].",
            "{N} woke up [early|late] and ate some {e}.",
            "{his} {w} took {him} to the {g}.",
            "{N} climbed up to see the [moon|stars|boats|ships|nest].",
            "{N} went to swim in the water.",
            "{N} and {his} {w} made some {e}.",
            "{N} wanted to see the {g}.",
            "the snow fell on the {p}, and {N} went outside.",
        ),
    },
}

# The middle sentences of each plot.
MIDDLE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "thing": {
        "happy": (
            "{He} [played|had fun] with the {o} all day.",
            "{He} loved the {o} more than anything.",
            '"What a [lovely|great|wonderful|beautiful] {o}!" said {N}.',
            "{He} hugged the {o} and smiled.",
            "The {o} was [perfect|beautiful|very special].",
            '"I love my {ao}," said {N}.',
            "{His} {w} liked the {o} too.",
        ),
        "sad": (
            "Then the {o} broke, and {he} [cried|was very sad|felt bad].",
            "{He} lost the {o} and [cried|sobbed|was very upset].",
            '"I hate this {o}," said {N}.',
            "But the {o} was [dirty|broken|ruined].",
            "The {o} hurt {his} [leg|head|arm].",
            '"My {ao} is lost," {N} cried.',
            "{His} {w} was angry about the {o}.",
        ),
        "neutral": (
            "{He} put the {o} on a [table|shelf|rock|log|wall].",
            "{He} showed the {o} to {his} {w}.",
            "{He} took the {o} back to the {p}.",
            '"Where did this {o} come from?" asked {N}.',
            "The {o} was under the [bed|table|tree|sofa|stairs].",
            "{He} held the {o} and looked at it.",
            "{His} {w} looked at the {o} too.",
        ),
    },
    "friend": {
        "happy": (
            "The {f} [smiled|laughed|was kind] and gave {him} some {e}.",
            '"You are my best friend," said the {f}.',
            "They played a [fun|great|silly] game near the {p}.",
            "The {f} told {him} a funny story, and they laughed.",
            "They hugged and [smiled|laughed|danced].",
            '"Let us play!" said the {f}.',
            "{N} liked the {f} very much.",
        ),
        "sad": (
            "The {f} was [mad|angry|upset] and ran away.",
            '"I do not like you," said the {f}.',
            "Then the {f} got [hurt|lost|sick].",
            "The {f} did not want to play, and {N} was [sad|lonely|upset].",
            "The {f} [cried|screamed|sobbed|wept] and ran into the dark.",
            '"Go away!" the {f} screamed.',
            "{N} was [scared|sad], and the {f} was too.",
        ),
        "neutral": (
            "The {f} sat down and ate some {e}.",
            '"Where do you live?" asked the {f}.',
            "They walked [to the {g}|up the hill|around the {p}] together.",
            "The {f} told {him} about the {g}.",
            "They looked at the [clouds|moon|stars|birds|fish|flowers].",
            '"I live near the {p}," said {N}.',
            "The {f} had {a}.",
        ),
    },
    "outing": {
        "happy": (
            "{He} saw {a} and [smiled|laughed|was excited].",
            "{He} met a [kind|nice|friendly] {f} there.",
            '"This is so much fun!" said {N}.',
            "{His} {w} gave {him} a [big|warm] hug.",
            "{He} danced and sang with joy.",
            '"I love you," said {his} {w}.',
            "There was a party with [delicious|sweet|yummy] {e}.",
        ),
        "sad": (
            "{He} saw a scary {f} and [screamed|cried].",
            "{He} lost {his} {ao} on the way.",
            '"I am so scared," said {N}.',
            "{His} {w} was [sick|sad|worried].",
            "{He} missed home and cried.",
            '"I want to go home," {he} cried.',
            "{He} fell in the mud and got [hurt|dirty].",
        ),
        "neutral": (
            "{He} saw {a} there.",
            "{He} met {af} on the way.",
            '"What is that?" asked {N}.',
            "{His} {w} was reading a book.",
            "{He} walked for a long time.",
            '"Come with me," said {his} {w}.',
            "There were many [birds|trees|people|boats|children|flowers] there.",
        ),
    },
}

# More middle sentences, for every plot.
ANY: Mapping[str, tuple[str, ...]] = {
    "happy": (
        "{N} was [very|so|really] [happy|glad|excited|proud|joyful|delighted].",
        "{He} felt [happy|great|wonderful|brave|safe|calm|strong|thankful].",
        "{He} [smiled|laughed|giggled] and [danced|sang|jumped up and down].",
        "Soon {he} was not sad anymore.",
        "It was a [great|wonderful|lovely|beautiful] day.",
        '"I am so [happy|glad|excited|lucky]!" said {N}.',
        "{His} {w} was [proud|happy|glad].",
        "{He} was not scared at all.",
        "{He} had a [good|great|clever|brilliant] idea.",
        "It was the best day of all.",
        "{His} {w} [kissed|thanked|hugged] {him} and smiled.",
        "The warm sun made {him} happy.",
    ),
    "sad": (
        "{N} was [very|so|really] [sad|upset|lonely|scared|disappointed|jealous|unhappy].",
        "{He} felt [sad|terrible|awful|lonely|sick|miserable|guilty|ashamed].",
        "{He} [cried|sobbed|wept] and [hid|sat down|ran away].",
        "Soon {he} was not happy anymore.",
        "It was [a bad|a terrible|a horrible|an awful] day.",
        '"I am so [sad|upset|lonely]," said {N}.',
        "{His} {w} was [angry|sad|upset].",
        "{He} was not happy at all.",
        "{He} had a [bad|terrible] pain in {his} [leg|head|back].",
        "It was the worst day of all.",
        "{His} {w} yelled, and {N} cried.",
        "The loud storm made {him} [cry|scared|sad].",
    ),
    "neutral": (
        "{N} looked at the [sky|water|clouds|moon|sunset|ground].",
        "{He} sat down and waited.",
        "{He} [walked|ran|looked|wandered] around the {p}.",
        "Soon it began to [rain|snow|get dark|thunder].",
        "It was a [long|cold|quiet|windy|foggy] day.",
        '"Let us go home now," said {N}.',
        "{His} {w} came to find {him}.",
        "{He} was thinking about {e}.",
        "{He} had some {e} and water.",
        "It was late, and the stars came out.",
        "{His} {w} asked {him} to eat.",
        "The wind moved the leaves.",
    ),
}

END: Mapping[str, tuple[str, ...]] = {
    "happy": (
        "They all lived happily ever after.",
        "{N} went home with [a big smile|a happy heart].",
        "They laughed and played until night.",
        "{N} was happy again.",
        "That night {he} slept with a smile.",
        "It was the best day ever.",
        "{N} and {his} {w} laughed all the way home.",
        "From then on {he} was [never sad again|always happy|always cheerful].",
        "In the end, {N} was [very|so] [happy|proud|glad].",
        "{He} hugged {his} {w} and smiled.",
        "And {N} loved the {p} more than ever.",
        "Everyone was happy and had a great time.",
    ),
    "sad": (
        "They were sad for a long time.",
        "{N} went home with [sad tears in {his} eyes|a broken leg|a terrible pain].",
        "They cried until night.",
        "{N} was never happy again.",
        "That night {he} cried in {his} bed.",
        "It was the worst day ever.",
        "{N} and {his} {w} cried all the way home.",
        "From then on {he} was [never happy again|always sad|very lonely].",
        "In the end, {N} was [very|so] [sad|lonely|upset].",
        "{He} sat all alone and cried.",
        "And {N} hated the {p} more than ever.",
        "Everyone was sad and had a terrible time.",
    ),
    "neutral": (
        "Then they all went to bed.",
        "{N} went home with [some {e}|{his} {w}].",
        "They walked and talked until night.",
        "{N} was home again.",
        "That night {he} slept in {his} bed.",
        "It was the end of the day.",
        "{N} and {his} {w} walked all the way home.",
        "From then on {he} [stayed near the {p}|went there every day].",
        "In the end, {N} went back to the {p}.",
        "{He} closed {his} eyes and went to sleep.",
        "And {N} stayed near the {p} for a long time.",
        "Everyone went home and had some {e}.",
    ),
}
