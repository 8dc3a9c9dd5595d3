// The primitives of ../hopper.cuh on the machine of the host twin: what copies.hpp has, and wgmma.
//
// A product of a warpgroup is carried out when it is waited for: until then its sums are NaN, and neither they nor what it reads,
// registers or shared memory, may have changed.
#pragma once

#include "copies.hpp"

namespace twin {

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
