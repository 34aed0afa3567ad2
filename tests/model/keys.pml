/*
 * The life of keys, checked by exhaustive search (Spin): announce, rotate, revoke, crash, heal.
 *
 * One source, one member that stays, one gateway that is left out of the second group key and turns against the others: it
 * keeps every key it ever learnt, records every object, replays old ones and sends forged packets.
 *
 * Assumptions. Signatures, wrapping and packets are ideal: an object counts as the source's only if the source made it; a
 * key is unwrapped, and a packet opened, only with the group key (GAK) of its epoch. Clocks agree on the stages of a change
 * (publish, activate, end of overlap). The network loses, repeats and delays everything at will; what is offered for
 * ever is received some time (fairness). The counter map outlives processes, and is lost as a whole or not at all. Keys,
 * counters and deaths are few, so that every interleaving is visited.
 *
 * Three searches, each without the processes that its claim does not depend on:
 *   -DCOUNTING   no (key, counter) pair seals twice, whatever dies; a withdrawn key seals nothing
 *   -DREVOKING   past the overlap nothing of the old epoch gets in, and what was withdrawn does not come back
 *   -DLIVENESS   in the end the member opens what the source seals, under the new epoch
 */

#ifndef KEYS
#define KEYS 4              /* ids 1..KEYS; 0 is none */
#endif
#ifndef COUNTERS
#define COUNTERS 3          /* counters a key may use */
#endif
#define BLOCK 2             /* counters reserved at once */
#ifndef DEATHS
#define DEATHS 1            /* of each process */
#endif
#ifndef LOSSES
#define LOSSES 1            /* of the maps */
#endif

mtype = { QUIET, PUBLISHED, ACTIVE, OVER };
mtype change = QUIET;       /* of the group key, from epoch 1 to 2 */

/* What the source made, and where it is known. Index: key id. */
byte epoch_of[KEYS + 1];
bool withdrawn[KEYS + 1];   /* the tombstone was signed */
byte made = 0;

/* The source: control. */
bool source_has_package = false;
byte sealing = 0;           /* the key that seals; kept in the map that outlives control */
bool control_up = true;

/* The source: data plane and its maps. */
bool plane_up = true;
byte reserved[KEYS + 1];    /* COUNTERS map: next block starts here */
byte next[KEYS + 1];        /* in the worker's memory */
byte limit[KEYS + 1];
bool used[(KEYS + 1) * (COUNTERS + BLOCK + 1)];    /* ghost: sealed with */

/* The member. */
bool member_has_package = false;
bool opens[KEYS + 1];
bool buried[KEYS + 1];      /* it knows the tombstone */

bool wiped = false;         /* it is past the overlap: group key 1 is gone */

byte deaths_of_control = 0, deaths_of_plane = 0, losses_of_maps = 0;

#define SENDING_EPOCH (change != QUIET && change != PUBLISHED && source_has_package -> 2 : 1)
#define ACCEPTS(e) ((e) == 2 -> member_has_package : !wiped)
#define USED(k, c) used[(k) * (COUNTERS + BLOCK + 1) + (c)]

inline make_key() {
    made++;
    epoch_of[made] = SENDING_EPOCH;
    sealing = made;
    next[made] = 1; limit[made] = 1; reserved[made] = 1
}

/* Control of the source. A key is made when there is none, when the operator asks, when the epoch to send with is another. */
active proctype control_makes() {
    do
    :: atomic { control_up && plane_up && made < KEYS && (sealing == 0 || epoch_of[sealing] != SENDING_EPOCH) -> make_key() }
    od
}

/* The operator rotates a key: ordinarily, or in an emergency, when the old one is withdrawn as well. */
active proctype operator() {
    atomic { control_up && plane_up && sealing != 0 && made < KEYS && change == QUIET ->
        if
        :: make_key()
        :: withdrawn[sealing] = true; make_key()
        :: skip
        fi }
}

active proctype control_hears() {
    do
    :: atomic { control_up && !source_has_package && change != QUIET -> source_has_package = true }
    od
}

active proctype control_dies() {
    do
    :: atomic { control_up && deaths_of_control < DEATHS -> deaths_of_control++; control_up = false }
    :: atomic { !control_up -> control_up = true }          /* with the package it stored, and the key that the map says seals */
    od
}

#ifdef COUNTING
/* The worker: counters are reserved before they are used. */
active proctype worker() {
    do
    :: atomic { plane_up && sealing != 0 && next[sealing] == limit[sealing] && reserved[sealing] <= COUNTERS ->
            reserved[sealing] = reserved[sealing] + BLOCK; limit[sealing] = reserved[sealing] }
    :: atomic { plane_up && sealing != 0 && next[sealing] < limit[sealing] && next[sealing] <= COUNTERS ->
            assert(!USED(sealing, next[sealing]));          /* no (key, counter) twice */
            USED(sealing, next[sealing]) = true;
            assert(!withdrawn[sealing]);
            next[sealing]++ }
    od
}
#endif

active proctype plane_dies() {
    byte k;
    do
    :: atomic { plane_up && deaths_of_plane < DEATHS -> deaths_of_plane++; plane_up = false }
    :: atomic { !plane_up ->                                /* past the last reservation */
            for (k : 1 .. KEYS) { next[k] = reserved[k]; limit[k] = reserved[k] }
            k = 0; plane_up = true }
    :: atomic { losses_of_maps < LOSSES && change != OVER -> losses_of_maps++;  /* made anew: no key of before seals again */
            for (k : 1 .. KEYS) { reserved[k] = 0; next[k] = 0; limit[k] = 0 }
            k = 0; sealing = 0 }
    od
}

/* The administrator publishes a package with shares for source and member, and time passes. */
active proctype administrator() {
    change = PUBLISHED;
    change = ACTIVE;
    change = OVER
}

#ifndef COUNTING
/* The member hears the objects over and over, in rotation; how late, the search decides. */
active proctype member_hears() {
    byte k = 0;
    do
    :: atomic { made > 0 ->
            k = k % made + 1;
            if
            :: withdrawn[k] -> buried[k] = true; opens[k] = false
            :: !withdrawn[k] && ACCEPTS(epoch_of[k]) -> opens[k] = true
            :: else
            fi }
    od
}

active proctype member_hears_package() {
    atomic { change != QUIET -> member_has_package = true }
}

active proctype member_wipes() {
    byte k;
    atomic { change == OVER && member_has_package ->
        wiped = true;
        for (k : 1 .. KEYS) { if :: epoch_of[k] == 1 -> opens[k] = false :: else fi }
        k = 0 }
}

#ifdef REVOKING
/* The one left out knows every key announced under the first epoch. It replays what it recorded, and sends forged packets. */
active proctype outcast() {
    byte k;
    do
    :: atomic { made > 0 -> select(k : 1 .. made);          /* a key's first object, though it may be withdrawn by now */
            if :: !buried[k] && ACCEPTS(epoch_of[k]) -> opens[k] = true :: else fi;
            assert(!(buried[k] && opens[k])); k = 0 }
    :: atomic { made > 0 -> select(k : 1 .. made);          /* a forged packet gets in only before the overlap is over */
            if :: epoch_of[k] == 1 && opens[k] -> assert(!wiped) :: else fi; k = 0 }
    od
}
#endif
#endif

#ifdef LIVENESS
/* In the end the member opens what the source seals, under the new epoch, for good. */
ltl converges { <> [] (sealing != 0 && epoch_of[sealing] == 2 && opens[sealing]) }
#endif
