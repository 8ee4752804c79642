/* Which addresses the server may fetch from: first and last addresses of the IANA registries' special blocks, and their public neighbours. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/fetch_address.h"

static bool is_public(const char *text, uint32_t zone) {
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_scope_id = zone};
    if (inet_pton(AF_INET, text, &four.sin_addr) == 1) {
        return fetch_address_is_public((struct sockaddr *)&four, sizeof four);
    }
    assert_int_equal(inet_pton(AF_INET6, text, &six.sin6_addr), 1);
    return fetch_address_is_public((struct sockaddr *)&six, sizeof six);
}

static void special_blocks_are_refused(void **state) {
    (void)state;
    static const char *const refused[] = {"0.0.0.0",
                                          "0.255.255.255",
                                          "10.0.0.0",
                                          "10.255.255.255",
                                          "100.64.0.0",
                                          "100.127.255.255",
                                          "127.0.0.1",
                                          "127.255.255.255",
                                          "168.63.129.16",
                                          "169.254.0.0",
                                          "169.254.169.254",
                                          "169.254.255.255",
                                          "172.16.0.0",
                                          "172.31.255.255",
                                          "192.0.0.0",
                                          "192.0.0.255",
                                          "192.0.2.1",
                                          "192.88.99.1",
                                          "192.168.0.0",
                                          "192.168.255.255",
                                          "198.18.0.0",
                                          "198.19.255.255",
                                          "198.51.100.7",
                                          "203.0.113.255",
                                          "224.0.0.0",
                                          "239.255.255.255",
                                          "240.0.0.0",
                                          "255.255.255.255",
                                          "::",
                                          "::1",
                                          "::8.8.8.8",
                                          "::ffff:127.0.0.1",
                                          "::ffff:8.8.8.8",
                                          "64:ff9b::8.8.8.8",
                                          "64:ff9b:1::1",
                                          "100::1",
                                          "2001::1",
                                          "2001:0:4136:e378:8000:63bf:3fff:fdd2",
                                          "2001:10::1",
                                          "2001:20::1",
                                          "2001:1ff:ffff::1",
                                          "2001:db8::1",
                                          "2001:db8:ffff::",
                                          "2002:7f00:1::",
                                          "2002:808:808::1",
                                          "3fff::1",
                                          "3fff:fff:ffff::1",
                                          "4000::1",
                                          "5f00::1",
                                          "fc00::1",
                                          "fd12::1",
                                          "fe80::1",
                                          "fec0::1",
                                          "ff02::1",
                                          "1fff::1"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (is_public(refused[i], 0)) {
            fail_msg("%s was taken for public", refused[i]);
        }
    }
}

static void neighbours_are_public(void **state) {
    (void)state;
    static const char *const taken[] = {
        "1.0.0.0",     "8.8.8.8",         "9.255.255.255",   "11.0.0.0",        "100.63.255.255",       "100.128.0.0",    "126.255.255.255",
        "128.0.0.0",   "168.63.129.15",   "168.63.129.17",   "169.253.255.255", "169.255.0.0",          "172.15.255.255", "172.32.0.0",
        "192.0.1.0",   "192.0.3.0",       "192.167.255.255", "192.169.0.0",     "198.17.255.255",       "198.20.0.0",     "203.0.112.255",
        "203.0.114.0", "223.255.255.255", "2000::1",         "2001:200::1",     "2001:4860:4860::8888", "2001:db7::1",    "2001:db9::1",
        "2003::1",     "2606:4700::1111", "3ffe::1",         "3fff:1000::1"};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        if (!is_public(taken[i], 0)) {
            fail_msg("%s was refused", taken[i]);
        }
    }
    assert_false(is_public("2606:4700::1111", 1)); /* with a zone */
}

static void other_families_are_refused(void **state) {
    (void)state;
    struct sockaddr_in four = {.sin_family = AF_UNIX, .sin_addr = {htonl(0x08080808)}};
    assert_false(fetch_address_is_public((struct sockaddr *)&four, sizeof four));
    four.sin_family = AF_INET;
    assert_false(fetch_address_is_public((struct sockaddr *)&four, 4)); /* cut */
    four.sin_family = AF_INET6;
    assert_false(fetch_address_is_public((struct sockaddr *)&four, sizeof four));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(special_blocks_are_refused), cmocka_unit_test(neighbours_are_public),
                                       cmocka_unit_test(other_families_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
