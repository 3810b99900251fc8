#include "team.h"

#include "api.h"
#include "sizes.h"

/* WebAssembly has no threads, and Windows no fork(). */
#if defined(__wasm__)
#define GQ_THREADS 0
#else
#define GQ_THREADS 1
#endif

#if GQ_THREADS
#if !defined(_WIN32)
#include <pthread.h>
#endif

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#endif

namespace {

using gq::task_t;

enum { MAX_THREADS = 256 };

/* GOMP_parallel of the OpenMP runtime that PyTorch runs on, or NULL. */
void (*openmp)(void (*)(void *), void *, unsigned, unsigned) = nullptr;

#if GQ_THREADS
/* How long a thread that waits looks for what it waits for before it lets other threads
 * run on its core, and before it sleeps: longer than a step takes between two products,
 * in this library and in Python. Waking it takes about as long as a small product. */
constexpr std::chrono::microseconds ALONE(20), AWAKE(200);

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

/* Wait until `done()`, for at most AWAKE; return whether it is done. */
template <class F>
bool spin(F done) {
    using clock = std::chrono::steady_clock;
    if (done()) return true;
    const clock::time_point start = clock::now();
    for (clock::duration passed(0); passed < AWAKE; passed = clock::now() - start) {
        if (passed > ALONE) std::this_thread::yield();
        for (int i = 0; i < 16; ++i) {
            if (done()) return true;
            relax();
        }
    }
    return done();
}

/* The tasks of one thread: those that it begins with, so that a weight's parts stay in
 * the cache of the same core from call to call. Other threads take what is left.
 *
 * `next` holds the number of the call in its upper half and the next task in its lower
 * half. A thread takes a task by counting `next` up, which fails once another call has
 * begun: what it knows of the call is valid if it succeeds. */
struct alignas(64) share {
    std::atomic<uint64_t> next{0};
    std::atomic<uint32_t> end{0};
};

class team {
public:
    /* As run_tasks; false, with nothing done, if another thread uses the team. */
    bool run(task_t task, const void *what, uint32_t tasks, int threads) {
        std::unique_lock<std::mutex> lock(in_use, std::try_to_lock);
        if (!lock) return false;
        while (workers < threads - 1 && start_worker()) ++workers;
        const uint32_t number = call.load() + 1;
        const int shares = threads < workers + 1 ? threads : workers + 1;
        const uint64_t upper = (uint64_t)number << 32;
        /* Nothing can be taken while the fields change. */
        const int most = open > shares ? open.load() : shares;
        for (int i = 0; i < most; ++i) share_of[i].next = upper | UINT32_MAX;
        to_do = tasks;
        run_task = task;
        argument = what;
        open = shares;
        for (int i = 0; i < shares; ++i) {
            share_of[i].end = (uint32_t)((uint64_t)tasks * (i + 1) / shares);
            share_of[i].next = upper | (uint64_t)tasks * i / shares;
        }
        call = number;
        if (sleeping.load() > 0) {
            std::lock_guard<std::mutex> hold(sleep);
            wake.notify_all();
        }
        take(0, number);
        auto is_done = [this] { return to_do.load(std::memory_order_acquire) == 0; };
        while (!spin(is_done)) continue;
        return true;
    }

private:
    bool start_worker() {
        try {
            std::thread(&team::work, this, workers + 1, call.load()).detach();
            return true;
        } catch (const std::system_error &) {
            return false;
        }
    }

    /* A thread: `seen` is the last call that it need not look at. */
    void work(int index, uint32_t seen) {
        for (;;) {
            auto is_new = [&] { return call.load() != seen; };
            if (!spin(is_new)) {
                std::unique_lock<std::mutex> hold(sleep);
                ++sleeping;
                wake.wait(hold, is_new);
                --sleeping;
            }
            seen = call.load();
            take(index, seen);
        }
    }

    /* Run tasks of a call until none is left to take, from share `index` on. */
    void take(int index, uint32_t number) {
        const int shares = open.load();
        if (index >= shares) return;
        for (int i = 0; i < shares; ++i) {
            share &s = share_of[index + i < shares ? index + i : index + i - shares];
            uint64_t next = s.next.load();
            for (;;) {
                const task_t task = run_task.load();
                const void *what = argument.load();
                const uint32_t end = s.end.load();
                if (next >> 32 != number || (uint32_t)next >= end) break;
                if (!s.next.compare_exchange_weak(next, next + 1)) continue;
                task(what, (uint32_t)next);
                to_do.fetch_sub(1, std::memory_order_release);
                next = s.next.load();
            }
        }
    }

    std::mutex in_use, sleep;
    std::condition_variable wake;
    int workers = 0;
    std::atomic<int> open{0}, sleeping{0};
    std::atomic<task_t> run_task{nullptr};
    std::atomic<const void *> argument{nullptr};
    alignas(64) std::atomic<uint32_t> call{0};
    alignas(64) std::atomic<uint32_t> to_do{0};
    share share_of[MAX_THREADS];
};

/* The process's team. It is never destroyed: its threads live as long as the process. A
 * child made by fork() has no threads, and gets a new one. */
std::atomic<team *> current{nullptr};

void renew_team() { current = new (std::nothrow) team; }

team *find_team() {
    static std::once_flag once;
    std::call_once(once, [] {
        renew_team();
#if !defined(_WIN32)
        pthread_atfork(nullptr, nullptr, renew_team);
#endif
    });
    return current;
}
#endif

struct work_t {
    task_t task;
    const void *what;
    int64_t tasks, next;
};

/* Take tasks until none is left; every thread of an OpenMP team runs this. */
void work(void *arg) {
    work_t *w = (work_t *)arg;
    int64_t index;
    while ((index = __atomic_fetch_add(&w->next, 1, __ATOMIC_RELAXED)) < w->tasks)
        w->task(w->what, index);
}

}  // namespace

void gq_set_team(void (*gomp_parallel)(void (*)(void *), void *, unsigned, unsigned)) {
    openmp = gomp_parallel;
}

namespace gq {

void run_tasks(task_t task, const void *what, int64_t tasks, int threads) {
#if GQ_THREADS
    threads = (int)least(least(threads, MAX_THREADS), tasks);
    if (threads > 1 && tasks < INT32_MAX) {
        team *all = find_team();
        if (all && all->run(task, what, (uint32_t)tasks, threads)) return;
    }
#else
    (void)threads;
#endif
    for (int64_t i = 0; i < tasks; ++i) task(what, i);
}

void run_long_tasks(task_t task, const void *what, int64_t tasks, int threads) {
    if (threads > 1 && tasks > 1 && openmp) {
        work_t w = {task, what, tasks, 0};
        /* Always the whole team: another size would restart it. */
        openmp(work, &w, (unsigned)least(threads, MAX_THREADS), 0);
    } else {
        run_tasks(task, what, tasks, threads);
    }
}

}  // namespace gq
