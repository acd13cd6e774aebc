// When a loop is worth more than one thread.
//
// A thread that is waited for costs some microseconds to wake, and milliseconds where other programs have the cores.
// So a region is entered by one thread alone unless there is work for PAYS microseconds for each of two. It is all
// threads or one: with a num_threads clause, libgomp ends threads and starts them again (pytorch issue 32008).
#pragma once
#include <cstdint>

namespace threads {

constexpr int64_t PAYS = 100;    // microseconds of work a thread
constexpr int64_t RATE = 5000;   // bytes that a thread reads and writes in a microsecond, about

// For the clause `if` of a parallel region whose loop moves so many bytes.
inline bool pay(int64_t bytes) { return bytes >= 2 * PAYS * RATE; }

}  // namespace threads
