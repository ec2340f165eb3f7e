// The few parts of googletest that the kernels' tests use, for compilers that no googletest was
// built for. TEST and the comparisons mean what they mean there; a failed ASSERT leaves its test.
#ifndef KPT_TESTS_KERNELS_AARCH64_GTEST_GTEST_H_
#define KPT_TESTS_KERNELS_AARCH64_GTEST_GTEST_H_

#include <cmath>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

namespace testing {

struct Case {
  const char* suite;
  const char* name;
  void (*run)();
};

inline std::vector<Case>& Cases() {
  static std::vector<Case> cases;
  return cases;
}

inline int& Failures() {
  static int failures = 0;
  return failures;
}

class Message {
 public:
  template <class T>
  Message& operator<<(const T& value) {
    text_ << value;
    return *this;
  }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
};

// Takes the message that follows a comparison, so that the whole is one void expression.
struct Failed {
  const char* file;
  int line;
  const char* what;
  void operator=(const Message& message) const {
    ++Failures();
    std::printf("%s:%d: failed: %s %s\n", file, line, what, message.text().c_str());
  }
};

}  // namespace testing

#define TEST(suite, name)                                              \
  static void suite##_##name();                                        \
  [[maybe_unused]] static const bool suite##_##name##_is_listed = [] { \
    ::testing::Cases().push_back({#suite, #name, &suite##_##name});    \
    return true;                                                       \
  }();                                                                 \
  static void suite##_##name()

#define KPT_FAILED(what) ::testing::Failed{__FILE__, __LINE__, what} = ::testing::Message()
#define KPT_EXPECT(ok, what) \
  if (ok) {                  \
  } else /* NOLINT */        \
    KPT_FAILED(what)
#define KPT_ASSERT(ok, what) \
  if (ok) {                  \
  } else /* NOLINT */        \
    return KPT_FAILED(what)

#define EXPECT_TRUE(a) KPT_EXPECT((a), #a)
#define EXPECT_FALSE(a) KPT_EXPECT(!(a), "not " #a)
#define EXPECT_EQ(a, b) KPT_EXPECT((a) == (b), #a " == " #b)
#define EXPECT_NE(a, b) KPT_EXPECT((a) != (b), #a " != " #b)
#define EXPECT_LE(a, b) KPT_EXPECT((a) <= (b), #a " <= " #b)
#define EXPECT_NEAR(a, b, most) KPT_EXPECT(std::fabs((a) - (b)) <= (most), #a " near " #b)
#define ASSERT_TRUE(a) KPT_ASSERT((a), #a)
#define ASSERT_FALSE(a) KPT_ASSERT(!(a), "not " #a)
#define ASSERT_EQ(a, b) KPT_ASSERT((a) == (b), #a " == " #b)
#define ASSERT_NE(a, b) KPT_ASSERT((a) != (b), #a " != " #b)
#define ASSERT_LE(a, b) KPT_ASSERT((a) <= (b), #a " <= " #b)
#define ASSERT_NEAR(a, b, most) KPT_ASSERT(std::fabs((a) - (b)) <= (most), #a " near " #b)

int main() {
  for (const ::testing::Case& test : ::testing::Cases()) {
    const int before = ::testing::Failures();
    test.run();
    const char* verdict = ::testing::Failures() == before ? "ok" : "FAILED";
    std::printf("%s.%s: %s\n", test.suite, test.name, verdict);
  }
  return ::testing::Failures() == 0 ? 0 : 1;
}

#endif  // KPT_TESTS_KERNELS_AARCH64_GTEST_GTEST_H_
