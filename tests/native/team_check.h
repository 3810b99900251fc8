/* The team of threads: each task once, also for several callers, and after fork(). */
#ifndef ESPNET_GQ_TEAM_CHECK_H
#define ESPNET_GQ_TEAM_CHECK_H

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "checking.h"
#include "team.h"

namespace {

void count_task(const void *what, int64_t index) {
    std::atomic<int> *counts = *(std::atomic<int> *const *)what;
    for (volatile int i = 0; i < 200; ++i) continue; /* so that others have their turn */
    counts[index].fetch_add(1);
}

bool runs_each_once(int64_t tasks, int threads) {
    std::vector<std::atomic<int>> counts((size_t)tasks);
    std::atomic<int> *first = counts.data();
    gq::run_tasks(count_task, &first, tasks, threads);
    for (const std::atomic<int> &count : counts)
        if (count != 1) return false;
    return true;
}

/* Calls of many sizes, one after the other: a thread that is late meets another call. */
bool run_calls(uint64_t number) {
    for (int i = 0; i < 3000; ++i) {
        number = number * 6364136223846793005u + 1442695040888963407u;
        if (!runs_each_once((int64_t)(number >> 33) % 50, 1 + (int)(number >> 40) % 5))
            return false;
    }
    return true;
}

void check_team() {
    about_to("run_tasks", -1);
    if (!run_calls(seed)) fail("run_tasks: a task ran more or less than once");
    std::atomic<bool> right{true};
    std::vector<std::thread> callers;
    for (uint64_t i = 1; i <= 3; ++i)
        callers.emplace_back([i, &right] {
            if (!run_calls(seed + i)) right = false;
        });
    for (std::thread &caller : callers) caller.join();
    if (!right) fail("run_tasks of several threads: a task ran more or less than once");
#if defined(__x86_64__) /* QEMU itself fails in children of several threads. */
    const pid_t child = fork();
    if (child == 0) _exit(run_calls(seed) ? 0 : 1);
    int status = 1;
    if (child > 0) waitpid(child, &status, 0);
    if (child > 0 && status) fail("run_tasks after fork(): status %d", status);
#endif
}

}  // namespace

#endif
