;; The two loops that take nearly all the time, on four numbers at once (SIMD). They compute what `product` and
;; `mix` of products.js do. `npm run --prefix tools wasm` assembles this file into products_wasm.js.
(module
  (import "env" "memory" (memory 1))

  ;; y[t * rows + r] = row r of the matrix . vector t of x
  ;; kind: 0 F32, 1 Q8_0, 2 Q4_1; stride: bytes from row to row; sums: room for n times 16 bytes
  (func (export "product")
    (param $kind i32) (param $matrix i32) (param $stride i32) (param $rows i32) (param $cols i32)
    (param $x i32) (param $n i32) (param $y i32) (param $sums i32)
    (local $r i32) (local $t i32) (local $col i32) (local $at i32) (local $x_at i32) (local $sum_at i32)
    (local $bytes v128) (local $both v128) (local $scale v128) (local $least v128) (local $low v128) (local $high v128)
    (local $w0 v128) (local $w1 v128) (local $w2 v128) (local $w3 v128)
    (loop $each_row
      (local.set $at (local.get $matrix))
      (memory.fill (local.get $sums) (i32.const 0) (i32.shl (local.get $n) (i32.const 4)))
      (local.set $col (i32.const 0))
      (loop $each_16_columns
        ;; 16 numbers of the row, in w0 to w3
        (if (i32.eqz (local.get $kind))
          (then
            (local.set $w0 (v128.load (local.get $at)))
            (local.set $w1 (v128.load offset=16 (local.get $at)))
            (local.set $w2 (v128.load offset=32 (local.get $at)))
            (local.set $w3 (v128.load offset=48 (local.get $at)))
            (local.set $at (i32.add (local.get $at) (i32.const 64))))
          (else
            (if (i32.and (local.get $col) (i32.const 16))
              (then
                ;; The other 16 of a block: the next bytes, or the high halves of the same bytes.
                (if (i32.eq (local.get $kind) (i32.const 1))
                  (then
                    (local.set $bytes (v128.load (i32.sub (local.get $at) (i32.const 16)))))
                  (else
                    (local.set $bytes (i8x16.shr_u (local.get $bytes) (i32.const 4))))))
              (else
                ;; A block of 32 begins. Its scale, and in Q4_1 its least number, are float16: made float32 here.
                (local.set $both (i32x4.extend_low_i16x8_u (v128.load32_zero (local.get $at))))
                (local.set $both (v128.or
                  (f32x4.mul
                    (i32x4.shl (v128.and (local.get $both) (v128.const i32x4 0x7fff 0x7fff 0 0)) (i32.const 13))
                    (v128.const f32x4 0x1p112 0x1p112 0 0))
                  (i32x4.shl (v128.and (local.get $both) (v128.const i32x4 0x8000 0x8000 0 0)) (i32.const 16))))
                (local.set $scale (f32x4.splat (f32x4.extract_lane 0 (local.get $both))))
                (local.set $least (f32x4.splat (f32x4.extract_lane 1 (local.get $both))))
                (local.set $at (i32.add (local.get $at) (i32.shl (local.get $kind) (i32.const 1))))
                (local.set $bytes (v128.load (local.get $at)))
                (local.set $at (i32.add (local.get $at)
                  (select (i32.const 32) (i32.const 16) (i32.eq (local.get $kind) (i32.const 1)))))))
            (if (i32.eq (local.get $kind) (i32.const 1))
              (then
                (local.set $least (v128.const f32x4 0 0 0 0))
                (local.set $low (i16x8.extend_low_i8x16_s (local.get $bytes)))
                (local.set $high (i16x8.extend_high_i8x16_s (local.get $bytes))))
              (else
                (local.set $both (v128.and (local.get $bytes) (v128.const i32x4 0x0f0f0f0f 0x0f0f0f0f 0x0f0f0f0f 0x0f0f0f0f)))
                (local.set $low (i16x8.extend_low_i8x16_u (local.get $both)))
                (local.set $high (i16x8.extend_high_i8x16_u (local.get $both)))))
            (local.set $w0 (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $low))))
            (local.set $w1 (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $low))))
            (local.set $w2 (f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s (local.get $high))))
            (local.set $w3 (f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s (local.get $high))))
            (local.set $w0 (f32x4.add (f32x4.mul (local.get $w0) (local.get $scale)) (local.get $least)))
            (local.set $w1 (f32x4.add (f32x4.mul (local.get $w1) (local.get $scale)) (local.get $least)))
            (local.set $w2 (f32x4.add (f32x4.mul (local.get $w2) (local.get $scale)) (local.get $least)))
            (local.set $w3 (f32x4.add (f32x4.mul (local.get $w3) (local.get $scale)) (local.get $least)))))
        ;; times the same 16 numbers of each vector
        (local.set $x_at (i32.add (local.get $x) (i32.shl (local.get $col) (i32.const 2))))
        (local.set $sum_at (local.get $sums))
        (local.set $t (local.get $n))
        (loop $each_vector
          (v128.store (local.get $sum_at)
            (f32x4.add (v128.load (local.get $sum_at))
              (f32x4.add
                (f32x4.add
                  (f32x4.mul (local.get $w0) (v128.load (local.get $x_at)))
                  (f32x4.mul (local.get $w1) (v128.load offset=16 (local.get $x_at))))
                (f32x4.add
                  (f32x4.mul (local.get $w2) (v128.load offset=32 (local.get $x_at)))
                  (f32x4.mul (local.get $w3) (v128.load offset=48 (local.get $x_at)))))))
          (local.set $x_at (i32.add (local.get $x_at) (i32.shl (local.get $cols) (i32.const 2))))
          (local.set $sum_at (i32.add (local.get $sum_at) (i32.const 16)))
          (br_if $each_vector (local.tee $t (i32.sub (local.get $t) (i32.const 1)))))
        (local.set $col (i32.add (local.get $col) (i32.const 16)))
        (br_if $each_16_columns (i32.lt_u (local.get $col) (local.get $cols))))
      ;; A sum has four parts.
      (local.set $t (i32.const 0))
      (loop $each_sum
        (local.set $low (v128.load (i32.add (local.get $sums) (i32.shl (local.get $t) (i32.const 4)))))
        (f32.store
          (i32.add (local.get $y)
            (i32.shl (i32.add (i32.mul (local.get $t) (local.get $rows)) (local.get $r)) (i32.const 2)))
          (f32.add
            (f32.add (f32x4.extract_lane 0 (local.get $low)) (f32x4.extract_lane 1 (local.get $low)))
            (f32.add (f32x4.extract_lane 2 (local.get $low)) (f32x4.extract_lane 3 (local.get $low)))))
        (br_if $each_sum (i32.lt_u (local.tee $t (i32.add (local.get $t) (i32.const 1))) (local.get $n))))
      (local.set $matrix (i32.add (local.get $matrix) (local.get $stride)))
      (br_if $each_row (i32.lt_u (local.tee $r (i32.add (local.get $r) (i32.const 1))) (local.get $rows)))))

  ;; y[c] = sum over the rows of weights[r] * row r [c]
  (func (export "mix")
    (param $weights i32) (param $matrix i32) (param $stride i32) (param $rows i32) (param $cols i32) (param $y i32)
    (local $r i32) (local $col i32) (local $at i32) (local $weight v128)
    (memory.fill (local.get $y) (i32.const 0) (i32.shl (local.get $cols) (i32.const 2)))
    (loop $each_row
      (local.set $weight (v128.load32_splat (i32.add (local.get $weights) (i32.shl (local.get $r) (i32.const 2)))))
      (local.set $col (i32.const 0))
      (loop $each_4_columns
        (local.set $at (i32.add (local.get $y) (i32.shl (local.get $col) (i32.const 2))))
        (v128.store (local.get $at)
          (f32x4.add
            (v128.load (local.get $at))
            (f32x4.mul
              (local.get $weight)
              (v128.load (i32.add (local.get $matrix) (i32.shl (local.get $col) (i32.const 2)))))))
        (br_if $each_4_columns
          (i32.lt_u (local.tee $col (i32.add (local.get $col) (i32.const 4))) (local.get $cols))))
      (local.set $matrix (i32.add (local.get $matrix) (local.get $stride)))
      (br_if $each_row (i32.lt_u (local.tee $r (i32.add (local.get $r) (i32.const 1))) (local.get $rows))))))
