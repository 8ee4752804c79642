#include "server/fetch_address.h"

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The IANA registries of special-purpose addresses (RFC 6890 and its updates). */
static bool ipv4_is_public(uint32_t a) {
    static const struct {
        uint32_t prefix;
        int bits;
    } special[] = {
        {0x00000000, 8},  /* this network */
        {0x0a000000, 8},  /* private */
        {0x64400000, 10}, /* shared by carriers (CGNAT) */
        {0x7f000000, 8},  /* loopback */
        {0xa83f8110, 32}, /* 168.63.129.16: a public number, but what Azure's machines are managed from */
        {0xa9fe0000, 16}, /* link-local; metadata of clouds */
        {0xac100000, 12}, /* private */
        {0xc0000000, 24}, /* protocol assignments */
        {0xc0000200, 24}, /* documentation */
        {0xc0586300, 24}, /* relays of 6to4 */
        {0xc0a80000, 16}, /* private */
        {0xc6120000, 15}, /* benchmarks */
        {0xc6336400, 24}, /* documentation */
        {0xcb007100, 24}, /* documentation */
        {0xe0000000, 4},  /* multicast */
        {0xf0000000, 4},  /* reserved; broadcast */
    };
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        if ((a ^ special[i].prefix) >> (32 - special[i].bits) == 0) {
            return false;
        }
    }
    return true;
}

/* 2000::/3 is all that is given out as global unicast; every other block, the IPv4-mapped and NAT64's among them, is outside it. */
static bool ipv6_is_public(const uint8_t a[16]) {
    const uint32_t first = (uint32_t)a[0] << 24 | (uint32_t)a[1] << 16 | (uint32_t)a[2] << 8 | a[3];
    return first >> 29 == 1                     /* 2000::/3 */
           && first >> 9 != 0x20010000u >> 9    /* 2001::/23: protocols; Teredo, ORCHID */
           && first != 0x20010db8u              /* documentation */
           && first >> 16 != 0x2002u            /* 6to4 */
           && first >> 12 != 0x3fff0000u >> 12; /* documentation */
}

bool fetch_address_is_public(const struct sockaddr *address, socklen_t size) {
    if (address->sa_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, address, sizeof in);
        return ipv4_is_public(ntohl(in.sin_addr.s_addr));
    }
    if (address->sa_family == AF_INET6 && size >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 in;
        memcpy(&in, address, sizeof in);
        return in.sin6_scope_id == 0 && ipv6_is_public(in.sin6_addr.s6_addr);
    }
    return false;
}
