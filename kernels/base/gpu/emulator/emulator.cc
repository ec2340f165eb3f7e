#include "kernels/base/gpu/emulator/emulator.h"

#include <algorithm>
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
  uint32_t bits = 0;  // given to a shuffle, then what came back
  int mask = 0;
};

// One block at a time runs; its threads' stacks are kept for the next.
class Machine {
 public:
  std::string Run(const char* kernel, int64_t blocks, int threads,
                  const std::function<void()>& body) {
    std::string().swap(fault_);  // a kept buffer would go to the stack that is dropped in Fail
    if (threads < 1 || threads > 1024 || threads % kWave != 0) {
      return std::string(kernel) + ": a block of " + std::to_string(threads) + " threads";
    }
    if (blocks < 1 || blocks > INT32_MAX) {
      return std::string(kernel) + ": a grid of " + std::to_string(blocks) + " blocks";
    }
    body_ = &body;
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

  uint32_t Shuffle(uint32_t bits, int mask) {
    Thread& thread = pool_[static_cast<size_t>(current_)];
    thread.bits = bits;
    thread.mask = mask;
    Stop(State::kAtShuffle);
    return thread.bits;
  }

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
    uint32_t bits[kWave];
    for (int lane = 0; lane < kWave; ++lane) {
      if (wave[lane].state != State::kAtShuffle || wave[lane].mask != wave[0].mask) {
        fault_ = "threads of one wave part before a shuffle";
        return;
      }
      bits[lane] = wave[lane].bits;
    }
    if (wave[0].mask < 0 || wave[0].mask >= kWave) {
      fault_ = "a shuffle out of the wave";
      return;
    }
    for (int lane = 0; lane < kWave; ++lane) {
      wave[lane].bits = bits[lane ^ wave[lane].mask];
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
  Fiber main_;
  const std::function<void()>* body_ = nullptr;
  std::string fault_;
  int64_t blocks_ = 0;
  int64_t block_ = 0;
  int64_t interval_ = 0;  // between two barriers of a block
  int threads_ = 0;
  int current_ = 0;
};

Machine* Machine::self_ = nullptr;

Machine& TheMachine() {
  static Machine machine;
  return machine;
}

}  // namespace

std::string Run(const char* kernel, int64_t blocks, int threads,
                const std::function<void()>& body) {
  return TheMachine().Run(kernel, blocks, threads, body);
}

void SetSeed(uint32_t seed) { TheMachine().SetSeed(seed); }
int ThreadIndex() { return TheMachine().thread(); }
int BlockThreads() { return TheMachine().threads(); }
int64_t BlockIndex() { return TheMachine().block(); }
int64_t GridBlocks() { return TheMachine().blocks(); }
void SyncBlock() { TheMachine().Stop(State::kAtBarrier); }
uint32_t ShuffleXor(uint32_t bits, int mask) { return TheMachine().Shuffle(bits, mask); }
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
