"""The machinery of incremental scores, which keep a state from token to token instead of scoring a text again.

Open the file by what a score depends on:

    splitters      cuts a growing text into units: words, characters, matches of a pattern
    units          a sum over units (`UnitSums`), and what all scorers that read units share (`UnitScorer`)
    phrases        which of some wanted phrases a text has (`PhraseReward`)
    references     what all scores that compare with references share (`ReferenceReward`, `ReferenceScorer`)
    ngram_overlap  n-grams in common with references (`NgramReward`): BLEU, chrF, ROUGE-N, token F1
    alignment      a row of an alignment with references (`RowScorer`): ROUGE-L, edit similarity; or how far a response
                   follows one of them (`PathScorer`): exact match, correct prefix
    automaton      a finite memory of the characters so far (`AutomatonReward`)
    growing        arrays that grow, in which the others keep what they have worked out
"""
