//! The network stack: packets, ARP and ND, IP, UDP, TCP, routing; pure.
#![forbid(unsafe_code)]
