// What the kernels of generation 2 ask of Hopper (sm_90a) beyond primitives.cuh: barriers in shared memory, tensor copies by
// descriptors (TMA), matrix products of whole warpgroups (wgmma), registers moved between warpgroups.
//
// The host twin has the same functions in twin/hopper.hpp.

typedef unsigned long long u64;

#define GRID_CONSTANT __grid_constant__
// Places that one warpgroup reaches in step.
#define WARPGROUP 128

// Which of its block's warpgroups a thread belongs to, in a register that the compiler knows to be the same for a warp.
DEVICE int warpgroup_index() { return __shfl_sync(0xffffffffu, (int)threadIdx.x / WARPGROUP, 0); }

// Registers that each thread of the warpgroup has from here on.
template <int COUNT> DEVICE void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT> DEVICE void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }

// Until all lanes of the warp are here; what they read and wrote before is in order.
DEVICE void warp_barrier() { __syncwarp(); }

// ---- barriers of the block, by number: 0 is that of barrier() ----

DEVICE void group_barrier(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
// Counts as having come without waiting.
DEVICE void group_arrive(int number, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// ---- mbarriers: 8 bytes of shared memory that count arrivals and bytes on their way, phase after phase ----

DEVICE void mbarrier_init(u32 at, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}
// Makes fresh mbarriers known to the copy engine; then a barrier of the block makes them known to its threads.
DEVICE void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void mbarrier_arrive(u32 at) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
// Arrives, and has the phase wait for so many bytes.
DEVICE void mbarrier_expect(u32 at, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
// Until the phase of this parity is over; of a fresh mbarrier the phase of parity 1 is.
DEVICE void mbarrier_wait(u32 at, u32 parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra over;\n"
                 "bra again;\n"
                 "over:\n"
                 "}" ::"r"(at),
                 "r"(parity)
                 : "memory");
}

// ---- copies by the copy engine; one thread asks for them ----

// A descriptor of a tensor and of the box that is copied of it, written by the driver.
struct alignas(128) TensorMap {
    u64 words[16];
};

// The box at (column, row, head, batch) to shared memory; the mbarrier is told its bytes. Beyond the tensor there are zeros.
DEVICE void tensor_load(u32 to, const TensorMap &map, u32 mbarrier, int column, int row, int head, int batch) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
                 "[%2];" ::"r"(to),
                 "l"(&map), "r"(mbarrier), "r"(column), "r"(row), "r"(head), "r"(batch)
                 : "memory");
}
// Shared memory to the box; what lies beyond the tensor is not written.
DEVICE void tensor_store(const TensorMap &map, u32 from, int column, int row, int head, int batch) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
                 "r"(from), "r"(column), "r"(row), "r"(head), "r"(batch)
                 : "memory");
}
// The same, added in float32 to what is there.
DEVICE void tensor_add(const TensorMap &map, u32 from, int column, int row, int head, int batch) {
    asm volatile("cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
                     &map),
                 "r"(from), "r"(column), "r"(row), "r"(head), "r"(batch)
                 : "memory");
}
// So many bytes, a multiple of 16, in a row.
DEVICE void bulk_load(u32 to, const void *from, u32 bytes, u32 mbarrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(mbarrier)
                 : "memory");
}
// Ends this thread's group of stores.
DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until this thread's stores have read shared memory, and until they are done.
DEVICE void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
DEVICE void bulk_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
// What this thread wrote to shared memory is seen by the copy engine and by wgmma afterwards.
DEVICE void async_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- wgmma: products of a warpgroup, under way until they are waited for ----

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most PENDING of the latest groups are under way.
template <int PENDING> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }

// Keeps the compiler from moving what is done to these registers across the place where this stands.
template <int N> DEVICE void hold(float (&values)[N][4]) {
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int i = 0; i < 4; i++) asm volatile("" : "+f"(values[n][i])::"memory");
}

#if ELEMENT_F16
#define WGMMA_TYPES "f32.f16.f16"
#else
#define WGMMA_TYPES "f32.bf16.bf16"
#endif
#define FOUR(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define SIXTEEN(d, n) FOUR(d, n), FOUR(d, n + 1), FOUR(d, n + 2), FOUR(d, n + 3)
#define SUMS_32                                                                                                                  \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "     \
    "%25, %26, %27, %28, %29, %30, %31}"
#define SUMS_64                                                                                                                  \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "     \
    "%25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, " \
    "%49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

// d (+)= a b, 64 rows by N columns over 16, where d is kept (ADD) or begins at zero. A and B are descriptors of shared memory;
// a factor whose lines in memory run along the sum is taken as it is, one whose lines run along d is TURNED.
template <bool ADD, bool A_TURNED, bool B_TURNED> DEVICE void multiply_shared(float (&d)[8][4], u64 a, u64 b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16." WGMMA_TYPES " " SUMS_32 ", %32, %33, add, 1, 1, %35, %36;\n}"
                 : SIXTEEN(d, 0), SIXTEEN(d, 4)
                 : "l"(a), "l"(b), "n"((int)ADD), "n"((int)A_TURNED), "n"((int)B_TURNED));
}
template <bool ADD, bool A_TURNED, bool B_TURNED> DEVICE void multiply_shared(float (&d)[16][4], u64 a, u64 b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16." WGMMA_TYPES " " SUMS_64 ", %64, %65, add, 1, 1, %67, %68;\n}"
                 : SIXTEEN(d, 0), SIXTEEN(d, 4), SIXTEEN(d, 8), SIXTEEN(d, 12)
                 : "l"(a), "l"(b), "n"((int)ADD), "n"((int)A_TURNED), "n"((int)B_TURNED));
}
// The same with A in registers, in the fragments of mma.m16n8k16 for the 16 rows of each warp.
template <bool ADD, bool B_TURNED> DEVICE void multiply_registers(float (&d)[8][4], const u32 (&a)[4], u64 b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16." WGMMA_TYPES " " SUMS_32
                 ", {%32, %33, %34, %35}, %36, add, 1, 1, %38;\n}"
                 : SIXTEEN(d, 0), SIXTEEN(d, 4)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ADD), "n"((int)B_TURNED));
}
template <bool ADD, bool B_TURNED> DEVICE void multiply_registers(float (&d)[16][4], const u32 (&a)[4], u64 b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16." WGMMA_TYPES " " SUMS_64
                 ", {%64, %65, %66, %67}, %68, add, 1, 1, %70;\n}"
                 : SIXTEEN(d, 0), SIXTEEN(d, 4), SIXTEEN(d, 8), SIXTEEN(d, 12)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"((int)ADD), "n"((int)B_TURNED));
}

// ---- memory that other blocks read and write during the launch ----

DEVICE int load_acquire(const int *from) {
    int value;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}
DEVICE void add_release(int *to, int value) {
    asm volatile("red.release.gpu.global.add.s32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
// What this thread's copies do to global memory and what its ordinary accesses do there are in order; together with an acquiring
// load after which it comes, or a releasing addition that comes after it, for the whole device.
DEVICE void global_async_fence() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

DEVICE void store_shared_floats(u32 address, float first, float second) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(first), "f"(second) : "memory");
}
DEVICE void load_shared_floats(u32 address, float &first, float &second) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(first), "=f"(second) : "r"(address) : "memory");
}
