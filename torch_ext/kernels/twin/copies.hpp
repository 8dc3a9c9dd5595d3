// mbarriers and the copy engine on the machine of the host twin, each by a plain definition of what the PTX ISA says, and as
// unkind as it allows; products and the primitives themselves are in hopper.hpp.
//
// Copies end whenever the seed says so, at the latest when nobody can go on; until then what they write is NaN. What threads
// wrote to shared memory is seen by copies and products only after async_fence().
//
// What the copy engine adds to global memory is there for other blocks only where the PTX ISA says so ("Memory Consistency
// Model"): its thread has waited for it, not just for its reading (bulk_wait), has put it before what follows outside of
// the copy engine (global_async_fence), and has released; the other has acquired at the same place and has put that before
// what it asks of the copy engine. Until then a sum may come whenever the seed says, some not before the last block is done. What
// threads themselves write to global memory is seen by all at once: no kernel reads what another block has stored.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "primitives.hpp"

typedef uint64_t u64;

#define GRID_CONSTANT
#define WARPGROUP 128

// A descriptor of the copy engine as the twin has it; src: attention/src/cuda/hopper/launch.rs, `TensorMap::for_twin`.
struct alignas(128) TensorMap {
    u64 base, dims[4], strides[3];
    u32 box[2], element_bytes, is_float;
    u64 unused[6];
};
static_assert(sizeof(TensorMap) == 128, "the size of a descriptor");

namespace twin {

// ---- what a block has ----

struct Mbarrier {
    int arrivals, missing;
    int64_t bytes;
    u32 phase;
};
enum Way { TO_SHARED, TO_GLOBAL, ADDED };
struct Transfer {
    Way way;
    TensorMap map; // Of a copy in a row: base and, as the only dimension, its bytes.
    u32 shared_at, mbarrier, bytes;
    int place[4], lane, group;
    std::vector<unsigned char> read; // Of shared memory, when it was asked for.
    bool was_read;
};

// One product under way, as one warp of the warpgroup sees it: its 16 rows of the result.
struct Product {
    float *results[32];
    const u32 *factors[32]; // Null if the left factor is in shared memory.
    int blocks, group;      // The group is -1 until it is committed.
    uint64_t left, right;
    bool add, left_turned, right_turned;
    std::vector<u32> operands; // Bits of everything that is read, when it was asked for.
    std::vector<float> sums;   // What is added to: 16 rows.
};
struct Warp {
    std::vector<Product> under_way;
    int groups;
    bool fenced;
};

// What the copy engine adds to global memory, from when it has been read on, and who is to find it there: nobody yet, its thread
// in the copy engine's own order, its thread in every order, or whoever acquires at `released_at`.
enum Found { NOWHERE, BY_ENGINE, BY_THREAD, RELEASED };
struct Sum {
    Transfer it;
    const Block *by; // Null if that block is done.
    Found found;
    const int *released_at;
    bool is_late; // Comes when it must, not before.
};
std::vector<Sum> sums;

struct More {
    std::map<u32, Mbarrier> mbarriers;
    std::vector<Transfer> transfers;
    Warp warps[MOST_LANES / 32];
    // Words of shared memory that threads wrote and neither the copy engine nor wgmma sees yet, and by thread.
    std::vector<unsigned char> unseen;
    std::vector<std::vector<u32>> written;
    // By thread: where it has acquired since its last fence between the copy engine and the rest.
    std::vector<std::vector<const int *>> acquired;
    // In some blocks copies end by and by, in some only when nobody can go on, one at a time.
    bool copies_are_late;
};
More *new_more() { return new More(); }

// ---- mbarriers ----

Mbarrier &mbarrier_at(u32 at) {
    auto found = more->mbarriers.find(at);
    if (found == more->mbarriers.end()) fail("there is no mbarrier at %u", at);
    return found->second;
}
void end_phase_if_due(Mbarrier &mbarrier) {
    if (mbarrier.missing != 0 || mbarrier.bytes != 0) return;
    mbarrier.missing = mbarrier.arrivals;
    mbarrier.phase++;
}
void arrive_at(u32 at, int64_t bytes) {
    Mbarrier &mbarrier = mbarrier_at(at);
    if (mbarrier.missing == 0) fail("more arrivals at the mbarrier at %u than it counts", at);
    events++;
    told = true;
    mbarrier.missing--;
    mbarrier.bytes += bytes;
    end_phase_if_due(mbarrier);
}
bool is_over(u32 at, u32 parity) { return (mbarrier_at(at).phase & 1) != parity; }

// ---- what threads wrote and neither the copy engine nor wgmma sees yet ----

void wrote_shared(u32 at, u32 size) {
    for (u32 word = at / 4; word < (at + size) / 4; word++) {
        more->unseen[word] = 1;
        more->written[current->index].push_back(word);
    }
}
void check_seen(u32 at, u32 size) {
    check_shared(at, 16);
    for (u32 word = at / 4; word < (at + size + 3) / 4; word++)
        if (more->unseen[word]) fail("shared memory at %u was written without async_fence", 4 * word);
}

// ---- the copy engine ----

// Of 128-byte swizzle: bits 4 to 6 of an address are exchanged by bits 7 to 9.
u32 swizzled(u32 at) { return at ^ (at >> 7 & 7) << 4; }

u32 box_bytes(const TensorMap &map) { return map.box[0] * map.box[1] * map.element_bytes; }

// Calls `work(address of the element or null, shared address, bytes)` for each piece of 16 bytes.
template <class Work> void each_piece(const Transfer &it, Work work) {
    u32 pitch = it.map.box[0] * it.map.element_bytes;
    for (u32 row = 0; row < it.map.box[1]; row++)
        for (u32 byte = 0; byte < pitch; byte += 16) {
            int64_t column = it.place[0] + (int64_t)byte / it.map.element_bytes, line = it.place[1] + (int64_t)row;
            bool inside = column >= 0 && column < (int64_t)it.map.dims[0] && line >= 0 && line < (int64_t)it.map.dims[1];
            for (int i = 2; i < 4; i++) inside = inside && it.place[i] >= 0 && it.place[i] < (int64_t)it.map.dims[i];
            u64 address = it.map.base + column * it.map.element_bytes + line * it.map.strides[0] +
                          it.place[2] * it.map.strides[1] + it.place[3] * it.map.strides[2];
            u64 left = inside ? (it.map.dims[0] - column) * it.map.element_bytes : 0;
            work((unsigned char *)address, swizzled(it.shared_at + row * pitch + byte), left < 16 ? (u32)left : 16u);
        }
}

void check_place(const Transfer &it) {
    if (it.shared_at % 128) fail("a box at shared address %u", it.shared_at);
    if (it.map.box[0] * it.map.element_bytes != 128) fail("a box of %u columns with 128-byte swizzle", it.map.box[0]);
    if (it.shared_at + box_bytes(it.map) > shared_size) fail("a box beyond shared memory");
}

std::vector<unsigned char> bytes_of_box(const Transfer &it) {
    return std::vector<unsigned char>(shared + it.shared_at, shared + it.shared_at + box_bytes(it.map));
}
// A store has read its box, which must be as it was when the store was asked for.
void read_box(Transfer &it) {
    if (it.was_read || it.way == TO_SHARED) return;
    if (bytes_of_box(it) != it.read) fail("shared memory at %u changed while it was stored", it.shared_at);
    it.was_read = true;
}

// What was read of a box goes to global memory.
void to_global(const Transfer &it) {
    each_piece(it, [&](unsigned char *to, u32 from, u32 bytes) {
        // Taken from the copy, whose bytes are where those of the box were.
        const unsigned char *piece = it.read.data() + (from - it.shared_at);
        if (bytes) check_global(to, bytes, 8);
        if (it.way == TO_GLOBAL) memcpy(to, piece, bytes);
        else
            for (u32 i = 0; i < bytes; i += 4) {
                float sum, more;
                memcpy(&sum, to + i, 4);
                memcpy(&more, piece + i, 4);
                sum += more;
                memcpy(to + i, &sum, 4);
            }
    });
}

// ---- sums between blocks ----

// Those that `which` picks come, in any order.
template <class Which> void add_those(Which which) {
    std::vector<Sum> picked, left;
    for (Sum &sum : sums) (which(sum) ? picked : left).push_back(std::move(sum));
    sums = std::move(left);
    for (; !picked.empty(); picked.pop_back()) {
        std::swap(picked[random_below((u32)picked.size())], picked.back());
        to_global(picked.back().it);
    }
}
// Sums of the running thread that have come as far as `from`, and of them those asked for before its open group, come to `to`.
void find_mine(Found from, Found to, const int *released_at) {
    for (Sum &sum : sums) {
        if (sum.by != block || sum.it.lane != current->index || sum.it.group >= current->group || sum.found != from) continue;
        sum.found = to;
        sum.released_at = released_at;
    }
}

void end_transfer(Transfer &it) {
    if (it.way == TO_SHARED) {
        if (it.bytes) {
            memcpy(shared + it.shared_at, (void *)it.map.base, it.bytes);
        } else {
            each_piece(it, [](unsigned char *from, u32 to, u32 bytes) {
                memset(shared + to, 0, 16);
                if (bytes) check_global(from, bytes, 8);
                memcpy(shared + to, from, bytes);
            });
        }
        mbarrier_at(it.mbarrier).bytes -= it.bytes ? it.bytes : box_bytes(it.map);
        end_phase_if_due(mbarrier_at(it.mbarrier));
        return;
    }
    read_box(it);
    if (it.way == ADDED) sums.push_back({it, block, NOWHERE, nullptr, random_below(2) == 0});
    else to_global(it);
}

void start_load(Transfer it) {
    u32 bytes = it.bytes ? it.bytes : box_bytes(it.map);
    if (!it.bytes) check_place(it);
    else if (it.shared_at % 16 || it.bytes % 16 || it.map.base % 16) fail("a copy in a row that is misaligned");
    else check_global((void *)it.map.base, it.bytes, 16);
    if (it.shared_at + bytes > shared_size) fail("a copy beyond shared memory");
    for (const Transfer &other : more->transfers) {
        u32 size = other.bytes ? other.bytes : box_bytes(other.map);
        if (it.shared_at < other.shared_at + size && other.shared_at < it.shared_at + bytes && !other.was_read)
            fail("two copies at shared address %u at once", it.shared_at);
    }
    mbarrier_at(it.mbarrier);
    memset(shared + it.shared_at, POISON, bytes);
    more->transfers.push_back(it);
}
void start_store(Transfer it) {
    check_place(it);
    for (u32 at = it.shared_at; at < it.shared_at + box_bytes(it.map); at += 16) check_seen(at, 16);
    it.read = bytes_of_box(it);
    more->transfers.push_back(it);
}

} // namespace twin
