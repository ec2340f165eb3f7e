#include "kernels/base/gpu/emulator/emulator.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "kernels/base/gpu/emulator/fiber.h"

namespace kpt::gpu::emulator {
namespace {

enum class State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Thread {
  Fiber fiber;
  State state = State::kReady;
  const void* given = nullptr;  // to an exchange with the wave
  int bytes = 0;
};

// Begun by a thread and not waited for: in groups, oldest first.
struct Copies {
  std::vector<std::vector<std::function<void()>>> groups;
  std::vector<std::function<void()>> open;  // not committed
};

// One block at a time runs; its threads' stacks are kept for the next.
class Machine {
 public:
  std::string Run(const char* kernel, int64_t blocks, int threads, int64_t dynamic_bytes,
                  const std::function<void()>& body) {
    std::string().swap(fault_);  // a kept buffer would go to the stack that is dropped in Fail
    if (threads < 1 || threads > 1024 || threads % kWave != 0) {
      return std::string(kernel) + ": a block of " + std::to_string(threads) + " threads";
    }
    if (blocks < 1 || blocks > INT32_MAX) {
      return std::string(kernel) + ": a grid of " + std::to_string(blocks) + " blocks";
    }
    body_ = &body;
    dynamic_bytes_ = dynamic_bytes;
    blocks_ = blocks;
    threads_ = threads;
    if (pool_.size() < static_cast<size_t>(threads)) pool_.resize(static_cast<size_t>(threads));
    for (block_ = 0; block_ < blocks && fault_.empty(); ++block_) RunBlock();
    body_ = nullptr;
    if (fault_.empty()) return fault_;
    return std::string(kernel) + ": " + fault_ + " (emulated block " + std::to_string(block_ - 1) +
           ", thread " + std::to_string(current_) + ")";
  }

  void SetSeed(uint32_t seed) { random_.seed(seed); }
  bool running() const { return body_ != nullptr; }
  int thread() const { return current_; }
  int threads() const { return threads_; }
  int64_t block() const { return block_; }
  int64_t blocks() const { return blocks_; }
  int64_t interval() const { return interval_; }

  // From a fiber: stops it in `state` until the scheduler has made it ready again.
  void Stop(State state) {
    Thread& thread = pool_[static_cast<size_t>(current_)];
    thread.state = state;
    main_.SwitchFrom(&thread.fiber, /*for_good=*/state == State::kDone);
  }

  const std::byte* Exchange(const void* data, int bytes) {
    Thread& thread = pool_[static_cast<size_t>(current_)];
    thread.given = data;
    thread.bytes = bytes;
    const size_t wave = static_cast<size_t>(current_ / kWave);
    Stop(State::kAtShuffle);
    return exchanged_[wave].data();
  }

  Copies& copies() { return copies_[static_cast<size_t>(current_)]; }
  int64_t dynamic_bytes() const { return dynamic_bytes_; }

  void Fail(std::string what) {
    if (!running()) return;
    if (fault_.empty()) fault_ = std::move(what);
    Stop(State::kDone);  // the stack is dropped as it is: nothing on it may own memory
  }

  std::map<const void*, std::unique_ptr<SharedBase>> shared;

 private:
  static void Enter() {
    Machine& machine = *self_;
    Fiber::Entered(&machine.main_);
    (*machine.body_)();
    machine.Stop(State::kDone);
  }

  void RunBlock() {
    shared.clear();
    copies_.assign(static_cast<size_t>(threads_), {});
    exchanged_.resize(static_cast<size_t>(threads_ / kWave));
    interval_ = 0;
    ready_.clear();
    for (int t = 0; t < threads_; ++t) {
      Thread& thread = pool_[static_cast<size_t>(t)];
      thread.fiber.Start(&Machine::Enter);
      thread.state = State::kReady;
      ready_.push_back(t);
    }
    self_ = this;
    int done = 0;
    while (done < threads_ && fault_.empty()) {
      if (ready_.empty()) {
        ReleaseBarrier(done);
        continue;
      }
      const size_t pick = random_() % ready_.size();
      std::swap(ready_[pick], ready_.back());
      current_ = ready_.back();
      ready_.pop_back();
      Thread& thread = pool_[static_cast<size_t>(current_)];
      thread.fiber.SwitchFrom(&main_);
      const State state = thread.state;
      if (state == State::kDone) ++done;
      if (state == State::kAtShuffle) CompleteShuffle();
    }
  }

  // When all of the current thread's wave wait at a shuffle, exchanges.
  void CompleteShuffle() {
    const int first = current_ / kWave * kWave;
    Thread* const wave = pool_.data() + first;
    for (int lane = 0; lane < kWave; ++lane) {
      if (wave[lane].state == State::kReady) return;
    }
    const size_t bytes = static_cast<size_t>(wave[0].bytes);
    std::vector<std::byte>& all = exchanged_[static_cast<size_t>(first / kWave)];
    all.resize(kWave * bytes);
    for (int lane = 0; lane < kWave; ++lane) {
      if (wave[lane].state != State::kAtShuffle || wave[lane].bytes != wave[0].bytes) {
        fault_ = "threads of one wave part before a shuffle";
        return;
      }
      std::memcpy(all.data() + static_cast<size_t>(lane) * bytes, wave[lane].given, bytes);
    }
    for (int lane = 0; lane < kWave; ++lane) {
      wave[lane].state = State::kReady;
      ready_.push_back(first + lane);
    }
  }

  // Nobody can run: all must be at the barrier.
  void ReleaseBarrier(int done) {
    if (done > 0) {
      fault_ = "threads wait for others that have left the kernel";
      return;
    }
    for (int t = 0; t < threads_; ++t) {
      if (pool_[static_cast<size_t>(t)].state != State::kAtBarrier) {
        current_ = t;
        fault_ = "some threads wait at a barrier, others at a shuffle";
        return;
      }
    }
    ++interval_;
    for (int t = 0; t < threads_; ++t) {
      pool_[static_cast<size_t>(t)].state = State::kReady;
      ready_.push_back(t);
    }
  }

  static Machine* self_;
  std::mt19937 random_{1};
  std::vector<Thread> pool_;
  std::vector<int> ready_;
  std::vector<Copies> copies_;  // by thread
  std::vector<std::vector<std::byte>>
      exchanged_;  // by wave: what its lanes gave, one after another
  Fiber main_;
  const std::function<void()>* body_ = nullptr;
  std::string fault_;
  int64_t blocks_ = 0;
  int64_t block_ = 0;
  int64_t interval_ = 0;  // between two barriers of a block
  int64_t dynamic_bytes_ = 0;
  int threads_ = 0;
  int current_ = 0;
};

Machine* Machine::self_ = nullptr;

Machine& TheMachine() {
  static Machine machine;
  return machine;
}

}  // namespace

std::string Run(const char* kernel, int64_t blocks, int threads, int64_t dynamic_bytes,
                const std::function<void()>& body) {
  return TheMachine().Run(kernel, blocks, threads, dynamic_bytes, body);
}

void SetSeed(uint32_t seed) { TheMachine().SetSeed(seed); }
int ThreadIndex() { return TheMachine().thread(); }
int BlockThreads() { return TheMachine().threads(); }
int64_t BlockIndex() { return TheMachine().block(); }
int64_t GridBlocks() { return TheMachine().blocks(); }
void SyncBlock() { TheMachine().Stop(State::kAtBarrier); }
int64_t DynamicBytes() { return TheMachine().dynamic_bytes(); }
const std::byte* Exchange(const void* data, int bytes) {
  return TheMachine().Exchange(data, bytes);
}

uint32_t ShuffleXor(uint32_t bits, int mask) {
  struct Given {
    uint32_t bits;
    int mask;
  } given{bits, mask}, other;
  if (mask < 0 || mask >= kWave) Fail("a shuffle out of the wave");
  const int lane = ThreadIndex() % kWave;
  const std::byte* all = Exchange(&given, sizeof(given));
  std::memcpy(&other, all + static_cast<size_t>(lane ^ mask) * sizeof(given), sizeof(given));
  if (other.mask != mask) Fail("threads of one wave part before a shuffle");
  return other.bits;
}

void StartCopy(std::function<void()> land) {
  TheMachine().copies().open.push_back(std::move(land));
}

void CommitCopies() {
  Copies& copies = TheMachine().copies();
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}

void WaitCopies(int newest) {
  auto& groups = TheMachine().copies().groups;
  while (static_cast<int>(groups.size()) > newest) {
    for (const auto& land : groups.front()) land();
    groups.erase(groups.begin());
  }
}
void Fail(std::string what) { TheMachine().Fail(std::move(what)); }

SharedBase* FindShared(const void* declaration) {
  const auto& shared = TheMachine().shared;
  const auto found = shared.find(declaration);
  return found == shared.end() ? nullptr : found->second.get();
}

void AddShared(const void* declaration, std::unique_ptr<SharedBase> shared) {
  TheMachine().shared[declaration] = std::move(shared);
}

namespace {

void FailShared(int64_t index, int64_t size, const char* what) {
  Fail("element " + std::to_string(index) + " of a shared array of " + std::to_string(size) + " " +
       what);
}

}  // namespace

void OnSharedRead(SharedTrace* trace, int64_t index, int64_t size) {
  const Machine& machine = TheMachine();
  if (trace->writer < 0) FailShared(index, size, "is read before it is written");
  if (trace->write_interval == machine.interval() && trace->writer != machine.thread()) {
    FailShared(index, size, "is read without a barrier after another thread wrote it");
  }
  const bool alone =
      trace->read_interval != machine.interval() || trace->reader == machine.thread();
  trace->read_interval = machine.interval();
  trace->reader = alone ? machine.thread() : SharedTrace::kSeveral;
}

void OnSharedWrite(SharedTrace* trace, int64_t index, int64_t size) {
  const Machine& machine = TheMachine();
  if (trace->read_interval == machine.interval() && trace->reader != machine.thread()) {
    FailShared(index, size, "is written without a barrier after another thread read it");
  }
  if (trace->write_interval == machine.interval() && trace->writer != machine.thread()) {
    FailShared(index, size, "is written by two threads without a barrier in between");
  }
  trace->write_interval = machine.interval();
  trace->writer = machine.thread();
}

}  // namespace kpt::gpu::emulator
