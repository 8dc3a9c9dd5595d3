// The primitives of ../hopper.cuh on the machine of the host twin: mbarriers, the copy engine and wgmma, each by a plain
// definition of what the PTX ISA says, and as unkind as it allows.
//
// Copies end whenever the seed says so, at the latest when nobody can go on; until then what they write is NaN. A product of a
// warpgroup is carried out when it is waited for: until then its sums are NaN, and neither they nor what it reads, registers
// or shared memory, may have changed. What threads wrote to shared memory is seen by products and copies only after
// async_fence().
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

// ---- wgmma ----

const u32 UNDER_WAY = 0x7fdeadffu; // NaN in the sums of a product that is not waited for.

// The shared address of 2 bytes of a factor in shared memory (PTX ISA, "Shared Memory Matrix Layout", 128-byte swizzle):
// `line` counts along the result, `deep` along the sum, of which there are 16.
u32 address_of(uint64_t descriptor, bool turned, int line, int deep) {
    u32 start = (u32)(descriptor & 0x3fff) << 4, leading = (u32)(descriptor >> 16 & 0x3fff) << 4;
    u32 stride = (u32)(descriptor >> 32 & 0x3fff) << 4;
    if (turned) return swizzled(start + line / 64 * leading + deep / 8 * stride + deep % 8 * 128 + line % 64 * 2);
    return swizzled(start + line / 8 * stride + line % 8 * 128 + deep * 2);
}
void check_descriptor(uint64_t descriptor, bool turned, int lines) {
    if (descriptor >> 62 != 1) fail("a descriptor without 128-byte swizzle");
    if (descriptor >> 49 & 7) fail("a descriptor with a base offset");
    if (turned && lines > 64 && (descriptor >> 16 & 0x3fff) == 0) fail("a descriptor without the distance of its boxes");
}
u32 half_at(u32 at) {
    check_shared(at, 2);
    if (more->unseen[at / 4]) fail("wgmma reads shared memory at %u that was written without async_fence", at / 4 * 4);
    uint16_t bits;
    memcpy(&bits, shared + at, 2);
    return bits;
}

// Everything that a warp's part of a product reads: 16 rows of A, then B by its columns.
std::vector<u32> operands_of(const Product &it, int warp_in_group) {
    std::vector<u32> bits;
    if (it.factors[0]) {
        bits.resize(256);
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < 8; i++) {
                int row = l / 4 + i % 4 / 2 * 8, column = l % 4 * 2 + i % 2 + i / 4 * 8;
                bits[16 * row + column] = it.factors[l][i / 2] >> 16 * (i % 2) & 0xffffu;
            }
    } else {
        for (int row = 0; row < 16; row++)
            for (int k = 0; k < 16; k++) bits.push_back(half_at(address_of(it.left, it.left_turned, 16 * warp_in_group + row, k)));
    }
    for (int column = 0; column < 8 * it.blocks; column++)
        for (int k = 0; k < 16; k++) bits.push_back(half_at(address_of(it.right, it.right_turned, column, k)));
    return bits;
}

// The element of a lane's `i`-th sum of a block of 8 columns.
int place_of(int lane, int block, int i, int blocks) {
    return (lane / 4 + i / 2 * 8) * 8 * blocks + 8 * block + lane % 4 * 2 + i % 2;
}

void start_product(Lane **lanes_of_group) {
    const Request &first = lanes_of_group[0]->request;
    for (int l = 1; l < WARPGROUP; l++) {
        const Request &other = lanes_of_group[l]->request;
        if (other.kind != WGMMA || other.left != first.left || other.right != first.right || other.blocks != first.blocks)
            fail("threads of a warpgroup ask for different products");
    }
    if (!first.factor) check_descriptor(first.left, first.left_turned, 64);
    check_descriptor(first.right, first.right_turned, 8 * first.blocks);
    for (int w = 0; w < 4; w++) {
        Lane **of_warp = lanes_of_group + 32 * w;
        Warp &warp = more->warps[of_warp[0]->index / 32];
        if (!warp.fenced) fail("wgmma without wgmma_fence since registers may have changed");
        Product it = {};
        it.blocks = first.blocks;
        it.group = -1;
        it.left = first.left, it.right = first.right;
        it.add = first.add, it.left_turned = first.left_turned, it.right_turned = first.right_turned;
        for (int l = 0; l < 32; l++) {
            it.results[l] = of_warp[l]->request.result;
            it.factors[l] = of_warp[l]->request.factor;
        }
        it.operands = operands_of(it, w);
        bool follows = false;
        for (const Product &other : warp.under_way) follows = follows || other.results[0] == it.results[0];
        it.sums.assign(16 * 8 * it.blocks, 0.0f);
        for (int l = 0; l < 32 && !follows; l++)
            for (int block = 0; block < it.blocks; block++)
                for (int i = 0; i < 4; i++) {
                    float &sum = it.results[l][4 * block + i];
                    if (it.add) it.sums[place_of(l, block, i, it.blocks)] = sum;
                    memcpy(&sum, &UNDER_WAY, 4);
                }
        warp.under_way.push_back(it);
    }
    for (int l = 0; l < WARPGROUP; l++) lanes_of_group[l]->state = READY;
}

// Carries out the oldest product of a warp.
void end_product(Warp &warp, int warp_in_group) {
    Product it = warp.under_way.front();
    warp.under_way.erase(warp.under_way.begin());
    if (operands_of(it, warp_in_group) != it.operands) fail("what a product reads changed while it was under way");
    int columns = 8 * it.blocks;
    std::vector<float> values(it.operands.size());
    for (size_t i = 0; i < values.size(); i++) values[i] = element(it.operands[i], 0);
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < columns; column++) {
            const float *a = &values[16 * row], *b = &values[256 + 16 * column];
            float sum = it.sums[row * columns + column];
            for (int k = 0; k < 16; k++) sum += a[k] * b[k];
            it.sums[row * columns + column] = sum;
        }
    for (Product &later : warp.under_way)
        if (later.results[0] == it.results[0]) {
            if (later.blocks != it.blocks) fail("products of different sizes in the same registers");
            if (later.add) later.sums = it.sums;
            return;
        }
    for (int l = 0; l < 32; l++)
        for (int block = 0; block < it.blocks; block++)
            for (int i = 0; i < 4; i++) {
                float &sum = it.results[l][4 * block + i];
                if (memcmp(&sum, &UNDER_WAY, 4)) fail("the sums of a product were changed while it was under way");
                sum = it.sums[place_of(l, block, i, it.blocks)];
            }
}

void wait_for_products(Warp &warp, int warp_in_group, int pending) {
    int last = warp.groups - pending;
    while (!warp.under_way.empty() && warp.under_way.front().group >= 0 && warp.under_way.front().group < last)
        end_product(warp, warp_in_group);
    warp.fenced = false;
}

void carry_out_more(Lane **of_warp) {
    int index = of_warp[0]->index / 32;
    Warp &warp = more->warps[index];
    switch (of_warp[0]->request.kind) {
    case WGMMA_FENCE: warp.fenced = true; break;
    case WGMMA_COMMIT:
        for (Product &it : warp.under_way)
            if (it.group < 0) it.group = warp.groups;
        warp.groups++;
        break;
    case WGMMA_WAIT: wait_for_products(warp, index % 4, of_warp[0]->request.mask); break;
    default: fail("a warp does nothing together");
    }
}

// ---- the block ----

void start_block_more() {
    more->mbarriers.clear();
    more->transfers.clear();
    more->unseen.assign(shared_size / 4 + 1, 0);
    more->written.assign(lane_count, {});
    more->acquired.assign(lane_count, {});
    for (Warp &warp : more->warps) warp = {};
    more->copies_are_late = random_below(2);
}

void end_block_more() {
    for (const Warp &warp : more->warps)
        if (!warp.under_way.empty()) fail("a product is under way at the end");
    for (Transfer &it : more->transfers) {
        if (it.way == TO_SHARED || !it.was_read) fail("a copy from or to shared memory is under way at the end");
        end_transfer(it);
    }
    for (Sum &sum : sums)
        if (sum.by == block) sum.by = nullptr;
}
void end_grid_more() {
    add_those([](const Sum &) { return true; });
}

bool end_some_transfers(bool stuck) {
    if (more->transfers.empty() || (more->copies_are_late && !stuck)) return false;
    bool ended = false;
    // Nobody but their own thread waits for stores: while there are loads, they stay behind.
    std::vector<size_t> loads;
    for (size_t i = 0; i < more->transfers.size(); i++)
        if (more->transfers[i].way == TO_SHARED) loads.push_back(i);
    size_t only = loads.empty() ? random_below(more->transfers.size()) : loads[random_below(loads.size())];
    for (size_t i = 0, number = 0; i < more->transfers.size(); number++) {
        bool ends = stuck ? number == only : random_below(3) == 0;
        if (!ends) {
            i++;
            continue;
        }
        end_transfer(more->transfers[i]);
        more->transfers.erase(more->transfers.begin() + i);
        ended = true;
    }
    return ended;
}

bool settle_more(bool stuck) {
    bool moved = false;
    for (int first = 0; first + WARPGROUP <= lane_count; first += WARPGROUP) {
        bool met = true;
        for (int l = 0; l < WARPGROUP; l++) met = met && lanes[first + l]->state == AT_WARPGROUP;
        if (!met) continue;
        start_product(lanes + first);
        moved = true;
    }
    moved |= end_some_transfers(stuck);
    if (!sums.empty()) add_those([](const Sum &sum) { return !sum.is_late && random_below(4) == 0; });
    for (int i = 0; i < lane_count; i++) {
        if (lanes[i]->state == AT_MBARRIER && is_over(lanes[i]->mbarrier, lanes[i]->parity)) {
            lanes[i]->state = READY;
            moved = true;
        }
    }
    events += moved;
    return moved;
}

void await(bool read_only) {
    for (size_t i = 0; i < more->transfers.size();) {
        Transfer &it = more->transfers[i];
        bool mine = it.way != TO_SHARED && it.lane == current->index && it.group < current->group;
        if (mine && read_only) read_box(it);
        if (mine && !read_only) {
            end_transfer(it);
            more->transfers.erase(more->transfers.begin() + i);
        } else i++;
    }
    if (!read_only) find_mine(NOWHERE, BY_ENGINE, nullptr);
}

} // namespace twin

DEVICE int warpgroup_index() { return thread_index() / WARPGROUP; }
template <int COUNT> DEVICE void fewer_registers() {}
template <int COUNT> DEVICE void more_registers() {}
DEVICE void warp_barrier() { twin::together(twin::SYNC); }

DEVICE void group_barrier(int number, int threads) { barrier_of(number, threads); }
DEVICE void group_arrive(int number, int threads) {
    if (number < 0 || number >= twin::BARRIERS) twin::fail("there is no barrier %d", number);
    if (twin::block->arrived[number] >= threads) twin::fail("more than %d threads came to barrier %d", threads, number);
    twin::block->arrived[number]++;
}

DEVICE void mbarrier_init(u32 at, int arrivals) {
    twin::check_shared(at, 8);
    twin::more->mbarriers[at] = {arrivals, arrivals, 0, 0};
}
DEVICE void mbarrier_init_fence() {}
DEVICE void mbarrier_arrive(u32 at) { twin::arrive_at(at, 0); }
DEVICE void mbarrier_expect(u32 at, u32 bytes) { twin::arrive_at(at, bytes); }
DEVICE void mbarrier_wait(u32 at, u32 parity) {
    if (parity > 1) twin::fail("a parity of %u", parity);
    if (twin::is_over(at, parity)) return;
    twin::current->mbarrier = at;
    twin::current->parity = parity;
    twin::wait_as(twin::AT_MBARRIER);
}

DEVICE void tensor_load(u32 to, const TensorMap &map, u32 mbarrier, int column, int row, int head, int batch) {
    twin::start_load({twin::TO_SHARED, map, to, mbarrier, 0, {column, row, head, batch}, twin::current->index, 0, {}, false});
}
DEVICE void tensor_store(const TensorMap &map, u32 from, int column, int row, int head, int batch) {
    twin::Lane &lane = *twin::current;
    twin::start_store({twin::TO_GLOBAL, map, from, 0, 0, {column, row, head, batch}, lane.index, lane.group, {}, false});
}
DEVICE void tensor_add(const TensorMap &map, u32 from, int column, int row, int head, int batch) {
    twin::Lane &lane = *twin::current;
    if (!map.is_float) twin::fail("only float32 is added by the copy engine here");
    twin::start_store({twin::ADDED, map, from, 0, 0, {column, row, head, batch}, lane.index, lane.group, {}, false});
}
DEVICE void bulk_load(u32 to, const void *from, u32 bytes, u32 mbarrier) {
    TensorMap map = {};
    map.base = (u64)from;
    twin::start_load({twin::TO_SHARED, map, to, mbarrier, bytes, {}, twin::current->index, 0, {}, false});
}
DEVICE void bulk_commit() { twin::current->group++; }
DEVICE void bulk_wait_read() { twin::await(true); }
DEVICE void bulk_wait() { twin::await(false); }
DEVICE void async_fence() {
    std::vector<u32> &mine = twin::more->written[twin::current->index];
    for (u32 word : mine) twin::more->unseen[word] = 0;
    mine.clear();
}

DEVICE void wgmma_fence() { twin::together(twin::WGMMA_FENCE); }
DEVICE void wgmma_commit() { twin::together(twin::WGMMA_COMMIT); }
template <int PENDING> DEVICE void wgmma_wait() {
    twin::current->request.mask = PENDING;
    twin::current->request.flag = false;
    twin::together(twin::WGMMA_WAIT);
}
template <int N> DEVICE void hold(float (&)[N][4]) {}

DEVICE void ask_product(float *result, int blocks, const u32 *factor, u64 left, u64 right, bool add, bool left_turned, bool right_turned) {
    twin::Request &request = twin::current->request;
    request.kind = twin::WGMMA;
    request.result = result, request.blocks = blocks, request.factor = factor;
    request.left = left, request.right = right;
    request.add = add, request.left_turned = left_turned, request.right_turned = right_turned;
    twin::wait_as(twin::AT_WARPGROUP);
}
template <bool ADD, bool A_TURNED, bool B_TURNED, int N> DEVICE void multiply_shared(float (&d)[N][4], u64 a, u64 b) {
    static_assert(N == 8 || N == 16, "64 or 128 columns");
    ask_product(&d[0][0], N, nullptr, a, b, ADD, A_TURNED, B_TURNED);
}
template <bool ADD, bool B_TURNED, int N> DEVICE void multiply_registers(float (&d)[N][4], const u32 (&a)[4], u64 b) {
    static_assert(N == 8 || N == 16, "64 or 128 columns");
    ask_product(&d[0][0], N, a, 0, b, ADD, false, B_TURNED);
}

// The last two are for planted bugs.
DEVICE int load_relaxed(const int *from) {
    twin::wait_as(twin::SPINNING);
    return load_int(from);
}
DEVICE void add_relaxed(int *to, int value) { store_global(to, load_int(to) + value); }
DEVICE int load_acquire(const int *from) {
    std::vector<const int *> &places = twin::more->acquired[thread_index()];
    int value = load_relaxed(from);
    if (places.empty() || places.back() != from) places.push_back(from);
    return value;
}
DEVICE void add_release(int *to, int value) {
    twin::find_mine(twin::BY_THREAD, twin::RELEASED, to);
    add_relaxed(to, value);
}
DEVICE void global_async_fence() {
    twin::find_mine(twin::BY_ENGINE, twin::BY_THREAD, nullptr);
    std::vector<const int *> &places = twin::more->acquired[thread_index()];
    for (const int *place : places)
        twin::add_those([&](const twin::Sum &sum) { return sum.found == twin::RELEASED && sum.released_at == place; });
    places.clear();
}

DEVICE void store_shared_floats(u32 address, float first, float second) {
    if (address % 8) twin::fail("a shared access of 8 bytes at %u is misaligned", address);
    store_shared_float(address, first);
    store_shared_float(address + 4, second);
}
DEVICE void load_shared_floats(u32 address, float &first, float &second) {
    if (address % 8) twin::fail("a shared access of 8 bytes at %u is misaligned", address);
    first = load_shared_float(address);
    second = load_shared_float(address + 4);
}
