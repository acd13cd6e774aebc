// Rows scaled to length 1: what they are divided by, and what that makes of their gradient.
#pragma once

constexpr float NORM_FLOOR = 1e-12f;

__device__ float clamped_norm(double squares) { return fmaxf(float(sqrt(squares)), NORM_FLOOR); }

// The gradient g of a unit row u = w / |w| becomes the one of w: (g - (g.u) u) / |w|. At the floor, u = w / floor, and
// g is only divided. This is (g.u) / |w|, where dot = g.w
__device__ float along(double dot, float norm) { return norm > NORM_FLOOR ? float(dot / norm / norm) : 0.0f; }
