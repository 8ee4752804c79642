#!/usr/bin/env python3
"""How many servers do N people need who talk with them by voice? A simulation of one server, event by event, from measured rates; docs/operations.md has its results.

usage: fleet_size.py [--card h100|h100-batched] [--think SECONDS] [--cached SHARE] [--seed N]

A person asks, hears the answer to its end, thinks, and asks again. From public traces: prompts of 1,020 tokens and answers of 129 tokens at the median (the
conversation service of the Azure LLM inference trace 2023: Patel et al., "Splitwise", ISCA 2024, arXiv:2311.18677); log-normal around that. Assumed: speech of
150 words a minute, 1.3 tokens a word; thinking is exponential; people do not wait for each other. `cached` is the share of prompts that is found computed: as
tests/deploy/failover.py measures it with hashing (0.66) and without (0.37).

The server is one card that does one thing at a time, earliest deadline first: a prompt, a step of the thinker for all, or a piece of somebody's speech.
Good enough means: 95% hear the first sound within a second, and less than 0.1% of what is heard comes late."""
import argparse
import heapq
import math
import random

TOKENS_A_SECOND = 150 / 60 * 1.3  # of speech
PIECE = 0.64  # seconds of sound that are made at once: 8 frames of 80 ms
AHEAD = 5.0  # seconds of sound that are made before they are heard

# Seconds of computing, from bench/results/2026-11-26-h100.md (Q4_K_M, 48 layers; steps of 8 and 16 sequences measured at 12 layers and scaled by the ratio
# at one sequence, 171.5 against 641 tokens/s).
STEP_RATIO = 641 / 171.5
H100 = {
    "prompt_token": 1 / 6648,
    "step": [(1, 1 / 171.5), (8, 8 / 1594 * STEP_RATIO), (16, 16 / 1181 * STEP_RATIO)],
    "code predictor": 12.5 * 8.1e-3,  # for a second of sound, each utterance by itself as measured
    "talker": 12.5 * (1 / 93.9 - 8.1e-3),  # and what else a frame takes
    "code2wav": 1 / 137,
    "hear": 5 / 488,  # a question of five seconds
}
# What would be if eight utterances' frames were made together for the price of two. Not measured.
BATCHED = {**H100, "code predictor": H100["code predictor"] / 4, "talker": H100["talker"] / 4}
CARDS = {"h100": H100, "h100-batched": BATCHED}


def step_seconds(card, n):
    """One step of the thinker for n sequences: straight lines between what was measured, and on as the last one."""
    table = card["step"]
    if n <= table[0][0]:
        return table[0][1]
    for (a, x), (b, y) in zip(table, table[1:]):
        if n <= b or b == table[-1][0]:
            return x + (y - x) * (n - a) / (b - a)
    raise AssertionError


def simulate(card, people, think, cached, seed, seconds=1200):
    """(95th percentile of the time to the first sound, share of sound that came late, {part: share of the time})"""
    chance = random.Random(seed)
    asking = [(chance.uniform(0, think + 40), i) for i in range(people)]  # (when, who)
    heapq.heapify(asking)
    speaking = {}  # who: [when asked, deadline of the next piece, seconds left to make, heard until]
    prompts, firsts, late, sound, busy, now = [], [], 0.0, 0.0, {}, 0.0

    def work(part, cost):
        nonlocal now
        busy[part] = busy.get(part, 0) + cost
        now += cost

    while now < seconds:
        while asking and asking[0][0] <= now:
            prompts.append(heapq.heappop(asking))
        due = min(speaking, key=lambda i: speaking[i][1], default=None)
        slack = speaking[due][1] - now if due is not None else math.inf
        if prompts and slack > 0.1:  # a prompt goes first while nobody is about to run out of sound
            when, who = prompts.pop(0)
            work("hearing", card["hear"])
            work("prompts", min(8192, chance.lognormvariate(math.log(1020), 0.8)) * (1 - cached) * card["prompt_token"])
            tokens = min(1000, max(8, chance.lognormvariate(math.log(129), 1.0)))
            speaking[who] = [when, now, tokens / TOKENS_A_SECOND, None]
        elif due is not None and slack < AHEAD:
            s = speaking[due]
            piece = min(PIECE if s[3] is not None else 0.08, s[2])
            work("thinker", piece * TOKENS_A_SECOND * step_seconds(card, len(speaking)) / len(speaking))
            for part in ["talker", "code predictor", "code2wav"]:
                work(part, piece * card[part])
            if s[3] is None:
                firsts.append(now - s[0])
                s[3] = now
            late += max(0, now - s[3])
            sound += piece
            s[3] = max(s[3], now) + piece
            s[1], s[2] = s[3], s[2] - piece
            if s[2] <= 0:
                heapq.heappush(asking, (s[3] + chance.expovariate(1 / think), due))
                del speaking[due]
        else:  # nothing is due: until something is
            later = ([asking[0][0]] if asking else []) + ([speaking[due][1] - AHEAD + 1e-6] if due is not None else [])
            now = max(now, min(later, default=seconds))
    firsts.sort()
    return firsts[int(0.95 * len(firsts))] if firsts else 0.0, late / max(sound, 1e-9), {k: v / now for k, v in busy.items()}


def most_people(card, think, cached, seed):
    """As many as three runs agree are served well enough."""
    def good(n):
        runs = [simulate(card, n, think, cached, seed + k) for k in range(3)]
        return all(first < 1 and late < 0.001 for first, late, _ in runs)

    n = 1
    while good(2 * n):
        n *= 2
    low, high = n, 2 * n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--card", choices=CARDS, default="h100")
    p.add_argument("--think", type=float, default=15, help="seconds of thinking at the mean (15)")
    p.add_argument("--cached", type=float, default=0.66, help="share of prompts that is found computed (0.66)")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    n = most_people(CARDS[a.card], a.think, a.cached, a.seed)
    first, late, busy = simulate(CARDS[a.card], n, a.think, a.cached, a.seed)
    print(f"{a.card}, think {a.think:g} s, {a.cached:.0%} of prompts found computed: {n} people a card (first sound p95 {first:.2f} s, late {late:.3%})")
    print("  busy: " + ", ".join(f"{k} {v:.1%}" for k, v in sorted(busy.items(), key=lambda kv: -kv[1])))
    for people in [1000, 100000]:
        # A tenth more, for those that are being replaced and for hashing, which does not spread evenly.
        print(f"  {people} people: {math.ceil(people / n * 1.1)} cards")


if __name__ == "__main__":
    main()
