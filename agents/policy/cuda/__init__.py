"""Decode steps on a GPU: recorded as CUDA graphs, and launched ahead of their observation.

**Nothing in this folder has run on a GPU.** Its tests hold everything but the recording itself, with a stand-in that
calls the recorded function again. It is used in one case alone: in a policy with `compile=True`, on CUDA, without
adapters (`Policy.captures_decoding`).

    graphs.py       records the kernels of a step once, and replays them
    lane_store.py   keeps keys and values in place between rollouts, where recordings read them
    lookahead.py    launches the next step while the environment still scores this one
"""
