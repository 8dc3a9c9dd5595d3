// The machine of the host twin: blocks of lanes on one core, one after the other or some of them in turns.
//
// Each lane of a block runs on a stack of its own until it meets something that lanes do together; when the whole warp (or
// warpgroup, or block) has met it, it is carried out by a plain definition of what the PTX ISA says, and the lanes go on. Warps
// run as far apart as barriers allow, in an order drawn from a seed, so that a missing barrier changes results; so do blocks that
// are on the machine at once. A broken rule (an access outside of a buffer, a misaligned address, a block in which nobody can go
// on, blocks that wait for each other) ends the program with a message.
#pragma once

#include <csetjmp>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

typedef unsigned int u32;
typedef unsigned short u16;

namespace twin {

[[noreturn]] void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    exit(3);
}

// ---- memory ----

const int MOST_BUFFERS = 32, GUARD = 4096;
const unsigned char GUARD_BYTE = 0xA5, POISON = 0xFF; // All ones are NaN in every element type.

struct Buffer {
    unsigned char *bytes;
    uint64_t size;
};
Buffer buffers[MOST_BUFFERS];
int buffer_count = 0;

unsigned char *shared = nullptr;
u32 shared_size = 0;

void check_global(const void *at, uint64_t size, uint64_t alignment) {
    const unsigned char *from = (const unsigned char *)at;
    if ((uintptr_t)at % alignment) fail("a global access of %d bytes is misaligned", (int)size);
    for (int i = 0; i < buffer_count; i++)
        if (from >= buffers[i].bytes && from + size <= buffers[i].bytes + buffers[i].size) return;
    fail("a global access of %d bytes lies outside of every buffer", (int)size);
}

void check_shared(u32 at, u32 size) {
    if (at % size) fail("a shared access of %u bytes at %u is misaligned", size, at);
    if (at > shared_size || size > shared_size - at) fail("a shared access of %u bytes at %u is beyond %u", size, at, shared_size);
}

// ---- lanes ----

enum State { READY, AT_WARP, AT_WARPGROUP, AT_BARRIER, AT_MBARRIER, SPINNING, DONE };
enum Kind { NONE, SHUFFLE, ANY, LOAD, LOAD_TRANSPOSED, MULTIPLY, SYNC, WGMMA, WGMMA_FENCE, WGMMA_COMMIT, WGMMA_WAIT };

// What a lane brings to something that its warp does together, and what it takes away.
struct Request {
    Kind kind;
    int mask;
    u32 address;
    float value;
    bool flag;
    u32 words[4], other[2];
    float sums[4];
    // Of wgmma: where this lane's part of the result and of the left factor are, and the descriptors of both factors.
    float *result;
    const u32 *factor;
    uint64_t left, right;
    int blocks;
    bool add, left_turned, right_turned;
};

struct Copy {
    u32 to;
    const void *from;
    u32 bytes;
    int group;
};

const int STACK = 128 * 1024, MOST_LANES = 1024;
struct Lane {
    int index;
    State state;
    Request request;
    std::vector<Copy> copies;
    int group;
    // At a barrier: which, and for how many; at an mbarrier: where, and for the end of which phase.
    int barrier, threads;
    u32 mbarrier, parity;
    ucontext_t start;
    jmp_buf at;
    bool started;
    unsigned char *stack;
};

// What a block has beyond that: generation 2 keeps more of it, see copies.hpp.
struct More;

// Barriers of a block, by number.
const int BARRIERS = 16;

// A block on the machine.
struct Block {
    int at[3];
    Lane **lanes;
    unsigned char *shared;
    More *more;
    // Warps that came to a barrier without waiting for it, by its number.
    int arrived[BARRIERS];
    // The warp that was last left with some lanes behind the others, which then is slow; -1 if there is none.
    int parted;
    // Warps that are slow at the moment: they run only when no other can go on.
    int first_slow, end_slow;
    // Whether threads that look whether another block is done do so only when nobody else can go on, else now and then.
    bool looks_late;
};

// The one that runs, and parts of it.
Block *block = nullptr;
Lane **lanes = nullptr;
More *more = nullptr;
Lane *current = nullptr;
jmp_buf scheduler;
ucontext_t scheduler_start;
int lane_count = 0, grid_size[3];
uint64_t bank_conflicts = 0, steps = 0;
// Counts lanes that ran to somewhere else than where they look whether another block is done.
uint64_t runs = 0;
// Counts whatever brings a block on; a lane that looks in vain whether another block is done does not.
uint64_t events = 0;
// Whether a lane has just told others by itself that they may go on: a good moment for the rest of its warp to fall behind.
bool told = false;

void wait_as(State state) {
    current->state = state;
    if (_setjmp(current->at) == 0) _longjmp(scheduler, 1);
}

Request &together(Kind kind) {
    current->request.kind = kind;
    wait_as(AT_WARP);
    return current->request;
}

void (*body)() = nullptr;
void lane_main() {
    body();
    current->state = DONE;
    _longjmp(scheduler, 1);
}

void run_lane(Lane *lane) {
    current = lane;
    if (_setjmp(scheduler) == 0) {
        if (lane->started) _longjmp(lane->at, 1);
        lane->started = true;
        swapcontext(&scheduler_start, &lane->start);
    }
    current = nullptr;
}

// ---- what a warp does together ----

float element(u32 words, int upper);

// Rows of 8 matrices' worth of 16 bytes each; a phase of 8 rows is free of conflicts if they lie in 8 groups of banks.
void count_conflicts(const u32 *rows) {
    int used = 0;
    for (int i = 0; i < 8; i++) {
        int group = 1 << (rows[i] / 16 % 8);
        // The same row twice is one access.
        bool again = false;
        for (int j = 0; j < i; j++) again = again || rows[j] == rows[i];
        if ((used & group) && !again) bank_conflicts++;
        used |= group;
    }
}

// PTX ISA, ldmatrix .x4: lane l gives the address of row l % 8 of matrix l / 8. Of matrix m, word m of lane l gets the
// elements 2 (l % 4) and the next of row l / 4; with .trans, of column l / 4.
void load_matrices(Lane **warp, bool transposed) {
    uint16_t elements[4][8][8];
    for (int matrix = 0; matrix < 4; matrix++) {
        u32 rows[8];
        for (int row = 0; row < 8; row++) {
            rows[row] = warp[8 * matrix + row]->request.address;
            check_shared(rows[row], 16);
            memcpy(elements[matrix][row], shared + rows[row], 16);
        }
        count_conflicts(rows);
    }
    for (int l = 0; l < 32; l++)
        for (int m = 0; m < 4; m++) {
            int a = l / 4, b = 2 * (l % 4);
            u32 low = transposed ? elements[m][b][a] : elements[m][a][b];
            u32 high = transposed ? elements[m][b + 1][a] : elements[m][a][b + 1];
            warp[l]->request.words[m] = low | high << 16;
        }
}

// PTX ISA, fragments of mma.m16n8k16 with 16-bit elements; i counts a lane's elements of a fragment.
void multiply(Lane **warp) {
    float a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < 32; l++) {
        Request &r = warp[l]->request;
        int group = l / 4, in_group = l % 4;
        for (int i = 0; i < 8; i++) {
            int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
            int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
            a[row][column] = element(r.words[i / 2], i & 1);
        }
        for (int i = 0; i < 4; i++) b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = element(r.other[i / 2], i & 1);
        for (int i = 0; i < 4; i++) c[i < 2 ? group : group + 8][in_group * 2 + (i & 1)] = r.sums[i];
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) warp[l]->request.sums[i] = c[i < 2 ? l / 4 : l / 4 + 8][l % 4 * 2 + (i & 1)];
}

void shuffle(Lane **warp) {
    float values[32];
    for (int l = 0; l < 32; l++) values[l] = warp[l]->request.value;
    for (int l = 0; l < 32; l++) warp[l]->request.value = values[l ^ warp[l]->request.mask];
}

void any(Lane **warp) {
    bool some = false;
    for (int l = 0; l < 32; l++) some = some || warp[l]->request.flag;
    for (int l = 0; l < 32; l++) warp[l]->request.flag = some;
}

// Generation 2 does more together; see hopper.hpp.
More *new_more();
void carry_out_more(Lane **warp);
bool settle_more(bool stuck);
void start_block_more();
void end_block_more();
void end_grid_more();
void wrote_shared(u32 at, u32 size);

void carry_out(Lane **warp) {
    Kind kind = warp[0]->request.kind;
    for (int l = 1; l < 32; l++)
        if (warp[l]->request.kind != kind) fail("lanes of a warp do different things together");
    switch (kind) {
    case SHUFFLE: shuffle(warp); break;
    case ANY: any(warp); break;
    case LOAD: load_matrices(warp, false); break;
    case LOAD_TRANSPOSED: load_matrices(warp, true); break;
    case MULTIPLY: multiply(warp); break;
    case SYNC: break;
    default: carry_out_more(warp);
    }
    for (int l = 0; l < 32; l++) warp[l]->state = READY;
    events++;
}

// ---- blocks ----

uint64_t random_state = 0;
u32 random_below(u32 bound) {
    random_state += 0x9E3779B97F4A7C15u;
    uint64_t mixed = (random_state ^ random_state >> 30) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBu;
    return (u32)((mixed ^ mixed >> 31) % bound);
}

void shuffle_order(int *order, int count) {
    for (int i = 0; i < count; i++) order[i] = i;
    for (int i = count - 1; i > 0; i--) {
        int j = random_below(i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

// Runs a warp until none of its lanes can go on.
void run_warp(Lane **warp) {
    int order[32];
    for (;;) {
        // Between two meetings the lanes of a warp run in any order, and now and then other warps run in between.
        bool ran = false;
        shuffle_order(order, 32);
        int stop = random_below(8) == 0 ? (int)random_below(32) : 32;
        for (int i = 0; i < 32; i++) {
            if (warp[order[i]]->state != READY) continue;
            if (ran && i >= stop) {
                block->parted = warp[0]->index / 32;
                return;
            }
            told = false;
            run_lane(warp[order[i]]);
            ran = true;
            runs += warp[order[i]]->state != SPINNING;
            if (told && random_below(4) == 0) stop = i + 1;
        }
        bool met = true;
        for (int l = 0; l < 32; l++) met = met && warp[l]->state == AT_WARP;
        // What is waited for is carried out only after all others have gone as far as they can.
        if (met && warp[0]->request.kind == WGMMA_WAIT && !warp[0]->request.flag) {
            warp[0]->request.flag = true;
            return;
        }
        if (met) carry_out(warp);
        else if (!ran) return;
        steps++;
    }
}

// Opens barriers that as many threads have come to as were to come.
bool open_barriers() {
    bool opened = false;
    for (int barrier = 0; barrier < BARRIERS; barrier++) {
        int count = block->arrived[barrier], threads = 0;
        for (int i = 0; i < lane_count; i++) {
            if (lanes[i]->state != AT_BARRIER || lanes[i]->barrier != barrier) continue;
            if (threads && lanes[i]->threads != threads) fail("barrier %d is for different numbers of threads", barrier);
            threads = lanes[i]->threads;
            count++;
        }
        if (threads && count > threads) fail("more than %d threads came to barrier %d", threads, barrier);
        if (!threads || count != threads) continue;
        auto waits = [&](int i) { return lanes[i]->state == AT_BARRIER && lanes[i]->barrier == barrier; };
        for (int i = 0; i < lane_count; i++)
            if (waits(i) != waits(i / 32 * 32)) fail("a part of a warp came to barrier %d", barrier);
        for (int i = 0; i < lane_count; i++)
            if (waits(i)) lanes[i]->state = READY;
        block->arrived[barrier] = 0;
        opened = true;
        events++;
    }
    return opened;
}

void describe_hanging() {
    const char *names[] = {"can go on", "wait for their warp", "wait for their warpgroup", "wait at a barrier",
                           "wait at an mbarrier", "wait for another block", "are done"};
    for (int state = READY; state <= DONE; state++) {
        int count = 0, first = -1;
        for (int i = 0; i < lane_count; i++)
            if (lanes[i]->state == state && count++ == 0) first = i;
        if (count)
            fprintf(stderr, "%d lanes, the first of them %d, %s (%d)\n", count, first, names[state],
                    state == AT_BARRIER ? lanes[first]->barrier : state == AT_MBARRIER ? (int)lanes[first]->mbarrier : 0);
    }
    fail("a block hangs");
}

void enter(Block &it) {
    block = &it;
    lanes = it.lanes;
    shared = it.shared;
    more = it.more;
}

// Makes a place on the machine ready for a block.
void begin_block(Block &it, uint64_t number) {
    enter(it);
    it.at[0] = (int)(number % grid_size[0]);
    it.at[1] = (int)(number / grid_size[0] % grid_size[1]);
    it.at[2] = (int)(number / grid_size[0] / grid_size[1]);
    memset(shared, POISON, shared_size);
    memset(it.arrived, 0, sizeof it.arrived);
    it.parted = -1;
    it.first_slow = it.end_slow = 0;
    it.looks_late = random_below(2);
    for (int i = 0; i < lane_count; i++) {
        Lane *lane = lanes[i];
        lane->state = READY;
        lane->started = false;
        lane->copies.clear();
        lane->group = 0;
        getcontext(&lane->start);
        lane->start.uc_stack.ss_sp = lane->stack;
        lane->start.uc_stack.ss_size = STACK;
        lane->start.uc_link = nullptr;
        makecontext(&lane->start, lane_main, 0);
    }
    start_block_more();
}

// Runs the warps of the block that can go on, some of them only if no other can. False if all are done.
bool run_block_on() {
    int warps = lane_count / 32, order[MOST_LANES / 32];
    int &first_slow = block->first_slow, &end_slow = block->end_slow;
    if (random_below(4) == 0) {
        first_slow = random_below(warps + 1);
        end_slow = first_slow + 1;
        if (random_below(2)) first_slow = first_slow / 4 * 4, end_slow = first_slow + 4;
    }
    auto run = [&](bool slow) {
        uint64_t before = runs;
        shuffle_order(order, warps);
        for (int i = 0; i < warps; i++)
            if ((order[i] >= first_slow && order[i] < end_slow) == slow) run_warp(lanes + 32 * order[i]);
        return runs != before;
    };
    for (int i = 0; i < lane_count && !block->looks_late; i++)
        if (lanes[i]->state == SPINNING && random_below(2)) lanes[i]->state = READY;
    bool moved = run(false), done = true;
    if (block->parted >= 0) first_slow = block->parted, end_slow = block->parted + 1, block->parted = -1;
    moved |= open_barriers();
    moved |= settle_more(false);
    bool copies_first = random_below(2);
    if (!moved && copies_first) moved = settle_more(true);
    if (!moved) moved = run(true);
    if (!moved) moved = open_barriers();
    for (int i = 0; i < lane_count; i++) done = done && lanes[i]->state == DONE;
    if (done) return false;
    if (moved || settle_more(true)) return true;
    bool looks = false;
    for (int i = 0; i < lane_count; i++)
        if (lanes[i]->state == SPINNING) lanes[i]->state = READY, looks = true;
    if (!looks) describe_hanging();
    return true;
}

Block *new_block() {
    Block *it = new Block();
    it->lanes = new Lane *[lane_count];
    for (int i = 0; i < lane_count; i++) {
        it->lanes[i] = new Lane();
        it->lanes[i]->index = i;
        it->lanes[i]->stack = (unsigned char *)malloc(STACK);
    }
    it->shared = (unsigned char *)aligned_alloc(1024, (shared_size + 1023) / 1024 * 1024 + 1024);
    it->more = new_more();
    return it;
}

// Runs all blocks of the grid, `at_once` of them on the machine at any time: one that is done makes room for the next. They take
// turns of random length, and one of them, another one from time to time, only when no other gets on.
void run_grid(void (*kernel)(), int threads, u32 seed, u32 at_once) {
    if (threads % 32 || threads > MOST_LANES) fail("a block of %d threads", threads);
    body = kernel;
    random_state = seed;
    lane_count = threads;
    uint64_t count = (uint64_t)grid_size[0] * grid_size[1] * grid_size[2], begun = 0, before = 0;
    std::vector<Block *> resident;
    for (; begun < count && begun < at_once; begun++) {
        resident.push_back(new_block());
        begin_block(*resident.back(), begun);
    }
    // Turns in which nothing happened, one after the other.
    u32 idle = 0, slow = 0;
    while (!resident.empty()) {
        u32 blocks = (u32)resident.size();
        if (random_below(32) == 0) slow = random_below(2 * blocks);
        u32 pick = random_below(blocks);
        if (pick == slow && blocks > 1 && idle == 0 && random_below(64)) continue;
        enter(*resident[pick]);
        bool goes_on = true;
        for (u32 left = random_below(8) + 1; goes_on && left > 0; left--) goes_on = run_block_on();
        if (!goes_on) {
            end_block_more();
            if (begun < count) begin_block(*resident[pick], begun++);
            else resident.erase(resident.begin() + pick);
        }
        idle = goes_on && events == before ? idle + 1 : 0;
        before = events;
        if (idle > 100 * blocks) {
            fprintf(stderr, "blocks wait for each other; of one\n");
            describe_hanging();
        }
    }
    end_grid_more();
}

} // namespace twin
